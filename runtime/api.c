/* Fills the driver table by dlopen, and names failures. */
#include "api.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "status.h"

static tml_api table;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Sonames in order of preference. A CUDA 13 build takes a CUDA 12 library too: the functions of the
 * table are the same in both. */
static const char *const cuda_names[] = {"libcuda.so.1", "libcuda.so", NULL};
static const char *const nvrtc_names[] = {"libnvrtc.so.13",
                                          "libnvrtc.so.12",
                                          "libnvrtc.so",
                                          "/usr/local/cuda/lib64/libnvrtc.so.13",
                                          "/usr/local/cuda/lib64/libnvrtc.so.12",
                                          "/usr/local/cuda/lib64/libnvrtc.so",
                                          NULL};
static const char *const nccl_names[] = {"libnccl.so.2", "libnccl.so", NULL};
static const char *const lt_names[] = {"libcublasLt.so.13",
                                       "libcublasLt.so.12",
                                       "libcublasLt.so",
                                       "/usr/local/cuda/lib64/libcublasLt.so.13",
                                       "/usr/local/cuda/lib64/libcublasLt.so.12",
                                       "/usr/local/cuda/lib64/libcublasLt.so",
                                       NULL};

/* One symbol to resolve. Pointers are stored through memcpy: ISO C has no cast from void * to a
 * function pointer. */
typedef struct symbol {
  const char *name;     /* as cuda.h maps it: cuMemAlloc_v2 */
  const char *fallback; /* an older name of the same signature, or NULL */
  void *slot;
  int optional;
} symbol;

#define STRING2(x) #x
#define STRING(x) STRING2(x)

/* A name counts as optional where older drivers of the supported range lack it. */
static int is_optional(const char *name)
{
  static const char *const optional[] = {"cuFuncLoad", "cuDeviceGetP2PAttribute",
                                         "cuKernelGetParamInfo"};
  for (size_t i = 0; i < sizeof optional / sizeof *optional; i++) {
    if (strcmp(name, optional[i]) == 0) return 1;
  }
  return 0;
}

/* NVRTC opens its builtins by their bare name. Where the toolkit's folder is not on the loader's path
 * that name is found only if the library is loaded already: it is taken from NVRTC's own folder. */
static void open_builtins(const char *nvrtc)
{
  char path[256];
  const char *file = strstr(nvrtc, "libnvrtc.so");
  if (nvrtc[0] != '/' || !file) return;
  snprintf(path, sizeof path, "%.*slibnvrtc-builtins.so", (int)(file - nvrtc), nvrtc);
  dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

/* A library that is loaded already, else a new one; NULL and why[] if none. */
static void *open_library(const char *const *names, char *why, size_t bytes)
{
  for (int flags = RTLD_NOW | RTLD_NOLOAD;; flags = RTLD_NOW) {
    for (size_t i = 0; names[i]; i++) {
      void *library = dlopen(names[i], flags | RTLD_LOCAL);
      if (!library) continue;
      open_builtins(names[i]);
      return library;
    }
    if (!(flags & RTLD_NOLOAD)) break;
  }
  snprintf(why, bytes, "%s was not found", names[0]);
  return NULL;
}

static int resolve(void *library, const symbol *symbols, size_t count, char *why, size_t bytes)
{
  for (size_t i = 0; i < count; i++) {
    void *address = dlsym(library, symbols[i].name);
    if (!address && symbols[i].fallback) address = dlsym(library, symbols[i].fallback);
    if (!address && !symbols[i].optional) {
      snprintf(why, bytes, "%s is missing in it: too old", symbols[i].name);
      return 0;
    }
    memcpy(symbols[i].slot, &address, sizeof address);
  }
  return 1;
}

/* Opens and resolves; on failure clears the table and appends what to install. */
static int load(const char *const *names, const symbol *symbols, size_t count, void *part,
                size_t part_bytes, const char *install, char *why, size_t why_bytes)
{
  char reason[96] = "";
  void *library = open_library(names, reason, sizeof reason);
  /* Never closed: the process may hold objects of it as long as it lives. */
  if (library && resolve(library, symbols, count, reason, sizeof reason)) return 1;
  memset(part, 0, part_bytes);
  if (library) {
    snprintf(why, why_bytes, "%s: %s; %s", names[0], reason, install);
  } else {
    snprintf(why, why_bytes, "%s; %s", reason, install);
  }
  return 0;
}

#define COUNT(list) (sizeof(list) / sizeof(list)[0])

static void open_cuda(void)
{
#define TML_X(f) {STRING(f), NULL, &table.cuda.p_##f, is_optional(#f)},
  symbol symbols[] = {TML_CUDA_MAP(TML_X)};
#undef TML_X
  for (size_t i = 0; i < COUNT(symbols); i++) {
    /* Drivers before 12.8 have only the old name; both take (float *, CUevent, CUevent). */
    if (strcmp(symbols[i].name, "cuEventElapsedTime_v2") == 0)
      symbols[i].fallback = "cuEventElapsedTime";
  }
  table.has_cuda =
      load(cuda_names, symbols, COUNT(symbols), &table.cuda, sizeof table.cuda,
           "install the NVIDIA driver (R550 or newer)", table.why_cuda, sizeof table.why_cuda);
}

static void open_nvrtc(void)
{
#define TML_X(f) {STRING(f), NULL, &table.nvrtc.p_##f, 0},
  const symbol symbols[] = {TML_NVRTC_MAP(TML_X)};
#undef TML_X
  table.has_nvrtc = load(nvrtc_names, symbols, COUNT(symbols), &table.nvrtc, sizeof table.nvrtc,
                         "install cuda-nvrtc (or pip's nvidia-cuda-nvrtc, on LD_LIBRARY_PATH)",
                         table.why_nvrtc, sizeof table.why_nvrtc);
}

static void open_nccl(void)
{
#define TML_X(f, type) {"nccl" #f, NULL, &table.nccl.f, 0},
  const symbol symbols[] = {TML_NCCL_MAP(TML_X)};
#undef TML_X
  table.has_nccl =
      load(nccl_names, symbols, COUNT(symbols), &table.nccl, sizeof table.nccl,
           "install libnccl2 2.19 or newer, or put pip's nvidia-nccl on LD_LIBRARY_PATH",
           table.why_nccl, sizeof table.why_nccl);
}

static void open_lt(void)
{
#define TML_X(f) {STRING(f), NULL, &table.lt.p_##f, 0},
  const symbol symbols[] = {TML_LT_MAP(TML_X)};
#undef TML_X
  table.has_lt = load(lt_names, symbols, COUNT(symbols), &table.lt, sizeof table.lt,
                      "install libcublas, or put pip's nvidia-cublas on LD_LIBRARY_PATH",
                      table.why_lt, sizeof table.why_lt);
}

static void open_all(void)
{
  open_cuda();
  open_nvrtc();
  open_nccl();
  open_lt();
}

const tml_api *tml_api_open(void)
{
  pthread_once(&once, open_all);
  return &table;
}

tml_status tml_cuda_check(const tml_api *api, CUresult result, const char *call)
{
  if (result == CUDA_SUCCESS) return TML_OK;
  const char *text = NULL;
  if (api->cuda.p_cuGetErrorString) api->cuda.p_cuGetErrorString(result, &text);
  tml_status status = result == CUDA_ERROR_OUT_OF_MEMORY ? TML_MEMORY : TML_DRIVER;
  return tml_fail(status, "%s failed: %s (%d)", call, text ? text : "unknown error", (int)result);
}

tml_status tml_nvrtc_check(const tml_api *api, nvrtcResult result, const char *call)
{
  if (result == NVRTC_SUCCESS) return TML_OK;
  const char *text =
      api->nvrtc.p_nvrtcGetErrorString ? api->nvrtc.p_nvrtcGetErrorString(result) : NULL;
  tml_status status = result == NVRTC_ERROR_OUT_OF_MEMORY ? TML_MEMORY : TML_COMPILE;
  return tml_fail(status, "%s failed: %s (%d)", call, text ? text : "unknown error", (int)result);
}

tml_status tml_nccl_check(const tml_api *api, int result, const char *call)
{
  if (result == TML_NCCL_SUCCESS || result == TML_NCCL_IN_PROGRESS) return TML_OK;
  const char *text = api->nccl.GetErrorString ? api->nccl.GetErrorString(result) : NULL;
  return tml_fail(TML_DRIVER, "%s failed: %s (%d)", call, text ? text : "unknown error", result);
}

tml_status tml_lt_check(cublasStatus_t result, const char *call)
{
  if (result == CUBLAS_STATUS_SUCCESS) return TML_OK;
  tml_status status = result == CUBLAS_STATUS_ALLOC_FAILED ? TML_MEMORY : TML_DRIVER;
  return tml_fail(status, "%s failed: cuBLAS status %d", call, (int)result);
}
