/* Libraries, kernels, launches, occupancy and tensor maps of the emulator's table. A library is a shared
 * object of the host (drv_cc.c makes them) with one kernel. */
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "../../templates/prim/emu_table.cu.in"
#include "driver.h"

#define SMEM_MOST 232448

/* ---- Libraries ---------------------------------------------------------------------------------- */

/* Bytes of an ELF image in memory; 0: it is none. */
static size_t image_bytes(const unsigned char *image)
{
  Elf64_Ehdr header;
  memcpy(&header, image, sizeof header);
  if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_type != ET_DYN) return 0;
  size_t sections = header.e_shoff + (size_t)header.e_shnum * header.e_shentsize;
  size_t programs = header.e_phoff + (size_t)header.e_phnum * header.e_phentsize;
  return sections > programs ? sections : programs;
}

static int write_all(int fd, const unsigned char *bytes, size_t count)
{
  while (count) {
    ssize_t written = write(fd, bytes, count);
    if (written <= 0) return 0;
    bytes += written;
    count -= (size_t)written;
  }
  return 1;
}

/* The loader wants a file: one without a name. It stays open as long as the object is loaded, because the
 * loader takes a path that it has seen for the same object. */
static void *open_image(const unsigned char *image, size_t bytes, int *fd)
{
  char path[64];
  void *dl = NULL;
  *fd = memfd_create("tidemill-kernel", MFD_CLOEXEC);
  if (*fd < 0) return NULL;
  snprintf(path, sizeof path, "/proc/self/fd/%d", *fd);
  if (write_all(*fd, image, bytes)) dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!dl) close(*fd);
  return dl;
}

static const emu_module *module_of(const drv_library *library) { return library->module; }

void drv_library_drop(drv_library *library)
{
  if (--library->refs == 0) free(library);
}

/* Objects by their bytes. They stay loaded as long as the machine: its reports name their lines. */
typedef struct loaded {
  struct loaded *next;
  XXH128_hash_t hash;
  void *dl;
  int fd;
  const emu_module *module;
} loaded;

static loaded *objects;

static void close_object(loaded *object)
{
  dlclose(object->dl);
  close(object->fd);
  free(object);
}

void drv_library_forget(void)
{
  while (objects) {
    loaded *object = objects;
    objects = object->next;
    close_object(object);
  }
}

/* NULL, or why not. */
static const char *bind_object(loaded *object)
{
  emu_module *module = dlsym(object->dl, "tml_emu_module");
  if (!module) return "not a kernel for the emulator";
  const void *primitives = emu_primitives_of_abi(module->abi);
  if (!primitives) return "a kernel for another version of the emulator; compile it again";
  *module->primitives = primitives;
  object->module = module;
  return NULL;
}

static const char *load_object(const unsigned char *image, size_t bytes, const emu_module **out)
{
  XXH128_hash_t hash = XXH3_128bits(image, bytes);
  for (const loaded *object = objects; object; object = object->next) {
    if (!XXH128_isEqual(object->hash, hash)) continue;
    *out = object->module;
    return NULL;
  }
  loaded *object = calloc(1, sizeof *object);
  if (!object) return "no memory";
  object->hash = hash;
  object->dl = open_image(image, bytes, &object->fd);
  if (!object->dl) {
    free(object);
    return "the system's loader refuses the object";
  }
  const char *why = bind_object(object);
  if (why) {
    close_object(object);
    return why;
  }
  object->next = objects;
  objects = object;
  *out = object->module;
  return NULL;
}

static CUresult drv_cuLibraryLoadData(CUlibrary *out, const void *code, CUjit_option *options,
                                      void **values, unsigned count, CUlibraryOption *lib_options,
                                      void **lib_values, unsigned lib_count)
{
  BEGIN(NOT_CAPTURING);
  (void)options, (void)values, (void)lib_options, (void)lib_values;
  if (count || lib_count) REFUSE(CUDA_ERROR_INVALID_VALUE, "options");
  size_t bytes = image_bytes(code);
  if (bytes == 0) REFUSE(CUDA_ERROR_INVALID_IMAGE, "not a shared object of this machine");
  drv_library *library = drv_object_new(DRV_LIBRARY, drv_current(), sizeof *library);
  if (!library) END(CUDA_ERROR_OUT_OF_MEMORY);
  const emu_module *module = NULL;
  const char *why = load_object(code, bytes, &module);
  if (why) {
    drv_object_kill(library);
    REFUSE(CUDA_ERROR_INVALID_IMAGE, why);
  }
  library->refs = 1;
  library->module = module;
  library->kernel.library = library;
  *out = (CUlibrary)(void *)library;
  END(CUDA_SUCCESS);
}

/* Out of the list of what is alive; launches that are under way keep the code. */
static void forget_library(const drv_library *library)
{
  for (drv_object **link = &drv.alive; *link; link = &(*link)->next) {
    if (*link != &library->object) continue;
    *link = library->object.next;
    return;
  }
}

static CUresult drv_cuLibraryUnload(CUlibrary handle)
{
  BEGIN_RELEASE(NOT_CAPTURING);
  drv_library *library = drv_object_find(DRV_LIBRARY, handle);
  if (!library) END_RELEASE(CUDA_ERROR_INVALID_HANDLE);
  forget_library(library);
  drv_library_drop(library);
  END_RELEASE(CUDA_SUCCESS);
}

/* ---- Kernels ------------------------------------------------------------------------------------ */

static CUresult drv_cuLibraryGetKernel(CUkernel *out, CUlibrary handle, const char *name)
{
  BEGIN(NEED_NOTHING);
  drv_library *library = drv_object_find(DRV_LIBRARY, handle);
  if (!library) END(CUDA_ERROR_INVALID_HANDLE);
  if (strcmp(module_of(library)->symbol, name) != 0) END(CUDA_ERROR_NOT_FOUND);
  *out = (CUkernel)(void *)&library->kernel;
  END(CUDA_SUCCESS);
}

static drv_kernel *kernel_of(const void *handle)
{
  for (drv_object *object = drv.alive; object; object = object->next)
    if (object->kind == DRV_LIBRARY && &((drv_library *)object)->kernel == handle)
      return &((drv_library *)object)->kernel;
  return NULL;
}

static CUresult set_attribute(drv_kernel *kernel, const char *call, CUfunction_attribute which,
                              int value)
{
  if (!kernel) return CUDA_ERROR_INVALID_HANDLE;
  if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
    return drv_refuse(CUDA_ERROR_INVALID_VALUE, call, "an attribute outside of the subset");
  if (value < 0 || value > SMEM_MOST) return CUDA_ERROR_INVALID_VALUE;
  kernel->smem = value;
  return CUDA_SUCCESS;
}

static CUresult drv_cuKernelSetAttribute(CUfunction_attribute which, int value, CUkernel kernel,
                                         CUdevice device)
{
  BEGIN(NEED_NOTHING);
  (void)device;
  END(set_attribute(kernel_of(kernel), "cuKernelSetAttribute", which, value));
}

static CUresult drv_cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value)
{
  BEGIN(NEED_NOTHING);
  END(set_attribute(kernel_of(function), "cuFuncSetAttribute", which, value));
}

static CUresult drv_cuKernelGetAttribute(int *value, CUfunction_attribute which, CUkernel handle,
                                         CUdevice device)
{
  BEGIN(NEED_NOTHING);
  (void)device;
  const drv_kernel *kernel = kernel_of(handle);
  if (!kernel) END(CUDA_ERROR_INVALID_HANDLE);
  switch (which) {
  case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 255; break; /* as many as a kernel wants */
  case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *value = 0; break;
  case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    *value = (int)module_of(kernel->library)->threads;
    break;
  case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = kernel->smem; break;
  default: REFUSE(CUDA_ERROR_INVALID_VALUE, "an attribute outside of the subset");
  }
  END(CUDA_SUCCESS);
}

static CUresult drv_cuKernelGetParamInfo(CUkernel handle, size_t index, size_t *offset,
                                         size_t *bytes)
{
  BEGIN(NEED_NOTHING);
  const drv_kernel *kernel = kernel_of(handle);
  if (!kernel) END(CUDA_ERROR_INVALID_HANDLE);
  const emu_module *module = module_of(kernel->library);
  if (index >= module->count) END(CUDA_ERROR_INVALID_VALUE);
  *offset = 0;
  for (size_t i = 0; i < index; i++) *offset += (module->sizes[i] + 7) / 8 * 8;
  *bytes = module->sizes[index];
  END(CUDA_SUCCESS);
}

static CUresult drv_cuKernelGetFunction(CUfunction *out, CUkernel handle)
{
  BEGIN(NEED_CONTEXT);
  if (!kernel_of(handle)) END(CUDA_ERROR_INVALID_HANDLE);
  *out = (CUfunction)(void *)handle;
  END(CUDA_SUCCESS);
}

static CUresult drv_cuFuncLoad(CUfunction function)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  END(kernel_of(function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

/* One block on each multiprocessor, whatever it needs: small kernels wait no less than large ones. */
static CUresult drv_cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function,
                                                                int threads, size_t smem)
{
  BEGIN(NEED_CONTEXT);
  const drv_kernel *kernel = kernel_of(function);
  if (!kernel || threads < 1) END(CUDA_ERROR_INVALID_VALUE);
  *blocks = threads <= (int)module_of(kernel->library)->threads && smem <= SMEM_MOST;
  END(CUDA_SUCCESS);
}

static CUresult drv_cuOccupancyMaxActiveClusters(int *clusters, CUfunction function,
                                                 const CUlaunchConfig *config)
{
  BEGIN(NEED_CONTEXT);
  const drv_kernel *kernel = kernel_of(function);
  if (!kernel) END(CUDA_ERROR_INVALID_VALUE);
  for (unsigned i = 0; i < config->numAttrs; i++)
    if (config->attrs[i].id != CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION ||
        config->attrs[i].value.clusterDim.x != module_of(kernel->library)->cluster)
      REFUSE(CUDA_ERROR_INVALID_VALUE, "attributes other than the cluster of the kernel");
  *clusters = drv.config.sms / (int)module_of(kernel->library)->cluster;
  END(CUDA_SUCCESS);
}

/* ---- Launches ----------------------------------------------------------------------------------- */

/* Copies of the parameters, behind an array of pointers to them. */
static int keep_params(drv_work *work, const emu_module *module, void **params)
{
  size_t bytes = 0, at = module->count * sizeof(void *);
  for (u32 i = 0; i < module->count; i++) bytes += (module->sizes[i] + 63u) / 64 * 64;
  at = (at + 63) / 64 * 64;
  unsigned char *room = aligned_alloc(64, at + bytes + 64 - (at + bytes) % 64);
  if (!room) return 0;
  void **list = (void **)(void *)room;
  for (u32 i = 0; i < module->count; i++) {
    list[i] = memcpy(room + at, params[i], module->sizes[i]);
    at += (module->sizes[i] + 63u) / 64 * 64;
  }
  work->params = room;
  work->launch.params = list;
  work->launch.sizes = module->sizes;
  work->launch.count = (int)module->count;
  return 1;
}

/* Programmatic serialisation allows a kernel to start before the one ahead of it has ended; this driver
 * never makes use of it. */
static const char *read_attributes(const CUlaunchConfig *config, emu_launch *launch)
{
  for (unsigned i = 0; i < config->numAttrs; i++) {
    const CUlaunchAttribute *attribute = &config->attrs[i];
    if (attribute->id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
      launch->cooperative = attribute->value.cooperative;
    else if (attribute->id != CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
      return "an attribute outside of the subset";
  }
  return NULL;
}

/* NULL, or the rule that is broken. */
static const char *check_shape(const CUlaunchConfig *c, const drv_kernel *kernel)
{
  const emu_module *module = module_of(kernel->library);
  if (c->gridDimX == 0 || c->gridDimY != 1 || c->gridDimZ != 1) return "grids have one dimension";
  if (c->blockDimX == 0 || c->blockDimY != 1 || c->blockDimZ != 1)
    return "blocks have one dimension";
  if (c->blockDimX > module->threads) return "more threads than the kernel's launch bound";
  if (c->gridDimX % module->cluster) return "the grid is not a multiple of the cluster";
  if (c->sharedMemBytes > 49152 && (int)c->sharedMemBytes > kernel->smem)
    return "more shared memory than the kernel's attribute allows";
  return NULL;
}

static drv_work *launch_work(const CUlaunchConfig *config, const drv_kernel *kernel, void **params)
{
  const emu_module *module = module_of(kernel->library);
  drv_work *work = drv_work_new(WORK_LAUNCH);
  if (!work) return NULL;
  work->launch = (emu_launch){.device = drv_current(),
                              .name = module->symbol,
                              .entry = module->entry,
                              .grid = config->gridDimX,
                              .block = config->blockDimX,
                              .cluster = module->cluster,
                              .smem = config->sharedMemBytes};
  work->library = kernel->library;
  work->library->refs++;
  if (keep_params(work, module, params)) return work;
  drv_work_drop(work);
  return NULL;
}

static CUresult drv_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function,
                                     void **params, void **extra)
{
  BEGIN(NEED_CONTEXT);
  const drv_kernel *kernel = kernel_of(function);
  drv_stream *stream = drv_stream_of(config->hStream);
  emu_launch attributes = {0};
  if (!kernel || !stream) END(CUDA_ERROR_INVALID_HANDLE);
  const char *why = extra ? "parameters come as pointers" : check_shape(config, kernel);
  if (!why) why = read_attributes(config, &attributes);
  if (why) REFUSE(CUDA_ERROR_INVALID_VALUE, why);
  if (attributes.cooperative && (int)config->gridDimX > drv.config.resident)
    REFUSE(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "the grid is not resident at once");
  drv_work *work = launch_work(config, kernel, params);
  if (!work) END(CUDA_ERROR_OUT_OF_MEMORY);
  work->launch.cooperative = attributes.cooperative;
  END(drv_enqueue(stream, work, NULL));
}

/* ---- Tensor maps -------------------------------------------------------------------------------- */

static int element_bytes(CUtensorMapDataType type)
{
  switch (type) {
  case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
  case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
  case CU_TENSOR_MAP_DATA_TYPE_UINT16: return 2;
  case CU_TENSOR_MAP_DATA_TYPE_FLOAT32: return 4;
  default: return 0;
  }
}

static CUresult
drv_cuTensorMapEncodeTiled(CUtensorMap *out, CUtensorMapDataType type, cuuint32_t rank,
                           void *address, const cuuint64_t *dim, const cuuint64_t *stride,
                           const cuuint32_t *box, const cuuint32_t *element_stride,
                           CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                           CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill)
{
  BEGIN(NEED_NOTHING);
  emu_tensor tensor = {.at = (uint64_t)(uintptr_t)address,
                       .rank = (int)rank,
                       .element = element_bytes(type),
                       .swizzle = (int)swizzle};
  (void)promotion;
  if (tensor.element == 0)
    REFUSE(CUDA_ERROR_INVALID_VALUE, "an element type outside of the subset");
  if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
    REFUSE(CUDA_ERROR_INVALID_VALUE, "interleave or fill outside of the subset");
  if (rank < 1 || rank > 5 || (uintptr_t)out % 64) END(CUDA_ERROR_INVALID_VALUE);
  for (cuuint32_t i = 0; i < rank; i++) {
    if (element_stride[i] != 1) REFUSE(CUDA_ERROR_INVALID_VALUE, "element strides other than 1");
    tensor.dim[i] = dim[i];
    tensor.stride[i] = i == 0 ? (uint64_t)tensor.element : stride[i - 1];
    tensor.box[i] = box[i];
  }
  if (drv.mistake == TML_EMU_STALE_MAP) tensor.dim[1] += 8;
  END_BY(CUDA_ERROR_INVALID_VALUE, emu_tensor_encode(out, &tensor));
}

void drv_fill_launch(tml_cuda *cuda)
{
#define FILL(f) cuda->p_##f = drv_##f
  FILL(cuLibraryLoadData);
  FILL(cuLibraryUnload);
  FILL(cuLibraryGetKernel);
  FILL(cuKernelSetAttribute);
  FILL(cuKernelGetAttribute);
  FILL(cuKernelGetParamInfo);
  FILL(cuKernelGetFunction);
  FILL(cuFuncSetAttribute);
  FILL(cuFuncLoad);
  FILL(cuLaunchKernelEx);
  FILL(cuOccupancyMaxActiveBlocksPerMultiprocessor);
  FILL(cuOccupancyMaxActiveClusters);
  FILL(cuTensorMapEncodeTiled);
#undef FILL
}
