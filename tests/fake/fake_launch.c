/* Libraries, kernels, launches, occupancy, tensor maps and a compiler of the fake driver. */
#include <elf.h>

#include "machine.h"

#define FAKE_CUBIN "FAKECUBIN"

typedef struct fake_kernel {
  struct fake_kernel *next;
  char name[TML_NAME_BYTES];
  int smem;
} fake_kernel;

typedef struct fake_library {
  fake_object object;
  char *image;
  fake_kernel *kernels;
} fake_library;

void fake_library_release(fake_object *object)
{
  fake_library *library = (fake_library *)object;
  while (library->kernels) {
    fake_kernel *kernel = library->kernels;
    library->kernels = kernel->next;
    free(kernel);
  }
  free(library->image);
  library->image = NULL;
}

/* Bytes of an image: a cubin of the fake NVRTC (text with its length in front) or an ELF file. */
static size_t image_bytes(const char *image)
{
  size_t bytes = 0;
  if (memcmp(image, FAKE_CUBIN, 9) == 0) return sscanf(image + 9, "%zu", &bytes) == 1 ? bytes : 0;
  if (memcmp(image, ELFMAG, SELFMAG) != 0) return 0;
  Elf64_Ehdr header;
  memcpy(&header, image, sizeof header);
  size_t sections = header.e_shoff + (size_t)header.e_shnum * header.e_shentsize;
  size_t programs = header.e_phoff + (size_t)header.e_phnum * header.e_phentsize;
  return sections > programs ? sections : programs;
}

static CUresult fake_cuLibraryLoadData(CUlibrary *out, const void *code, CUjit_option *options,
                                       void **values, unsigned count, CUlibraryOption *lib_options,
                                       void **lib_values, unsigned lib_count)
{
  BEGIN(NOT_CAPTURING);
  (void)options, (void)values, (void)count, (void)lib_options, (void)lib_values, (void)lib_count;
  size_t bytes = image_bytes(code);
  if (bytes == 0) END(CUDA_ERROR_INVALID_IMAGE);
  fake_library *library = fake_object_new(OBJ_LIBRARY, fake_current_device(), sizeof *library);
  library->image = malloc(bytes);
  if (!library->image) abort();
  memcpy(library->image, code, bytes);
  library->object.bytes = bytes;
  *out = (CUlibrary)(void *)library;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuLibraryUnload(CUlibrary handle)
{
  BEGIN_RELEASE(NOT_CAPTURING);
  fake_library *library = fake_object_find(OBJ_LIBRARY, handle);
  if (!library) END_RELEASE(CUDA_ERROR_INVALID_HANDLE);
  fake_library_release(&library->object);
  fake_object_kill(library);
  END_RELEASE(CUDA_SUCCESS);
}

static CUresult fake_cuLibraryGetKernel(CUkernel *out, CUlibrary handle, const char *name)
{
  BEGIN(NEED_NOTHING);
  fake_library *library = fake_object_find(OBJ_LIBRARY, handle);
  if (!library) END(CUDA_ERROR_INVALID_HANDLE);
  if (!memmem(library->image, library->object.bytes, name, strlen(name))) END(CUDA_ERROR_NOT_FOUND);
  fake_kernel *kernel = library->kernels;
  while (kernel && strcmp(kernel->name, name) != 0) kernel = kernel->next;
  if (!kernel) {
    kernel = calloc(1, sizeof *kernel);
    if (!kernel) abort();
    snprintf(kernel->name, sizeof kernel->name, "%s", name);
    kernel->next = library->kernels;
    library->kernels = kernel;
  }
  *out = (CUkernel)(void *)kernel;
  END(CUDA_SUCCESS);
}

static fake_kernel *kernel_of(const void *handle)
{
  for (fake_object *object = fake_m.live; object; object = object->next)
    if (object->kind == OBJ_LIBRARY)
      for (fake_kernel *kernel = ((fake_library *)object)->kernels; kernel; kernel = kernel->next)
        if (kernel == handle) return kernel;
  return NULL;
}

static CUresult set_attribute(fake_kernel *kernel, CUfunction_attribute which, int value)
{
  if (!kernel) return CUDA_ERROR_INVALID_HANDLE;
  if (which == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    if (value < 0 || value > 232448) return CUDA_ERROR_INVALID_VALUE;
    kernel->smem = value;
  }
  return CUDA_SUCCESS;
}

static CUresult fake_cuKernelSetAttribute(CUfunction_attribute which, int value, CUkernel kernel,
                                          CUdevice device)
{
  BEGIN(NEED_NOTHING);
  (void)device;
  END(set_attribute(kernel_of(kernel), which, value));
}

static CUresult fake_cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value)
{
  BEGIN(NEED_NOTHING);
  END(set_attribute(kernel_of(function), which, value));
}

static CUresult fake_cuKernelGetAttribute(int *value, CUfunction_attribute which, CUkernel handle,
                                          CUdevice device)
{
  BEGIN(NEED_NOTHING);
  (void)device;
  const fake_kernel *kernel = kernel_of(handle);
  if (!kernel) END(CUDA_ERROR_INVALID_HANDLE);
  *value = 0;
  if (which == CU_FUNC_ATTRIBUTE_NUM_REGS) *value = fake_m.config.registers;
  if (which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK) *value = 1024;
  if (which == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) *value = kernel->smem;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuKernelGetFunction(CUfunction *out, CUkernel handle)
{
  BEGIN(NEED_CONTEXT);
  if (!kernel_of(handle)) END(CUDA_ERROR_INVALID_HANDLE);
  *out = (CUfunction)(void *)handle;
  END(CUDA_SUCCESS);
}

static CUresult fake_cuFuncLoad(CUfunction function)
{
  BEGIN(NEED_CONTEXT | NOT_CAPTURING);
  END(kernel_of(function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

static CUresult fake_cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function,
                                                                 int threads, size_t smem)
{
  BEGIN(NEED_CONTEXT);
  if (!kernel_of(function) || threads < 1) END(CUDA_ERROR_INVALID_VALUE);
  *blocks = threads <= 1024 && smem <= 232448;
  END(CUDA_SUCCESS);
}

static unsigned cluster_size(const CUlaunchConfig *config)
{
  for (unsigned i = 0; i < config->numAttrs; i++)
    if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
      return config->attrs[i].value.clusterDim.x * config->attrs[i].value.clusterDim.y *
             config->attrs[i].value.clusterDim.z;
  return 1;
}

static CUresult fake_cuOccupancyMaxActiveClusters(int *clusters, CUfunction function,
                                                  const CUlaunchConfig *config)
{
  BEGIN(NEED_CONTEXT);
  if (!kernel_of(function) || cluster_size(config) == 0) END(CUDA_ERROR_INVALID_VALUE);
  *clusters = fake_m.config.sms / (int)cluster_size(config);
  END(CUDA_SUCCESS);
}

/* ---- Launches ---- */

void fake_learn(const char *symbol, const size_t *sizes, int count)
{
  pthread_mutex_lock(&fake_m.lock);
  fake_learnt *learnt = calloc(1, sizeof *learnt);
  if (!learnt || count > FAKE_PARAMS) abort();
  snprintf(learnt->symbol, sizeof learnt->symbol, "%s", symbol);
  memcpy(learnt->size, sizes, (size_t)count * sizeof *sizes);
  learnt->count = count;
  learnt->next = fake_m.learnt;
  fake_m.learnt = learnt;
  pthread_mutex_unlock(&fake_m.lock);
}

/* How many maps of a table a kernel of this op takes. */
static size_t map_count(const tml_variant *variant, tml_param param)
{
  size_t world = (size_t)variant->world;
  switch (param) {
  case TML_PARAM_map_a: return variant->op == TML_AG_GEMM ? world : 1;
  case TML_PARAM_map_c: return variant->op == TML_AG_GEMM || variant->op == TML_GEMM_AR ? world : 1;
  case TML_PARAM_map_in:
    if (variant->pattern == TML_PATTERN_RING) return world;
    return variant->op == TML_GEMM_AR ? 1 + world : 1;
  case TML_PARAM_map_out:
  case TML_PARAM_map_fin: return world;
  default: return 1;
  }
}

typedef struct {
  char bytes[128];
} tml_map_table; /* stands for one map */
#define FAKE_X(name, type) sizeof(type),
static const size_t param_size[] = {TML_PARAM_MAP(FAKE_X)};
#undef FAKE_X

void fake_learn_variant(const tml_variant *variant)
{
  size_t size[TML_PARAM_COUNT];
  for (int i = 0; i < variant->param_count; i++) {
    tml_param param = variant->params[i];
    size[i] = param_size[param];
    if (param <= TML_PARAM_map_fin) size[i] *= map_count(variant, param);
  }
  fake_learn(variant->symbol, size, variant->param_count);
}

const void *fake_param(const fake_op *op, const tml_variant *variant, tml_param param)
{
  for (int i = 0; i < variant->param_count && i < op->launch.params; i++)
    if (variant->params[i] == param) return op->launch.param[i];
  return NULL;
}

static void keep_params(fake_launch *launch, void **params)
{
  const fake_learnt *learnt = fake_m.learnt;
  while (learnt && strcmp(learnt->symbol, launch->name) != 0) learnt = learnt->next;
  if (!learnt) return;
  launch->params = learnt->count;
  for (int i = 0; i < learnt->count; i++) {
    launch->size[i] = learnt->size[i];
    launch->param[i] = malloc(learnt->size[i]);
    if (!launch->param[i]) abort();
    memcpy(launch->param[i], params[i], learnt->size[i]);
  }
}

static void keep_attributes(fake_launch *launch, const CUlaunchConfig *config)
{
  for (int i = 0; i < 3; i++) launch->cluster[i] = 1;
  for (unsigned i = 0; i < config->numAttrs; i++) {
    const CUlaunchAttribute *attribute = &config->attrs[i];
    if (attribute->id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
      launch->cluster[0] = attribute->value.clusterDim.x;
      launch->cluster[1] = attribute->value.clusterDim.y;
      launch->cluster[2] = attribute->value.clusterDim.z;
    }
    if (attribute->id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
      launch->cooperative = attribute->value.cooperative;
    if (attribute->id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
      launch->programmatic = attribute->value.programmaticStreamSerializationAllowed;
  }
}

static CUresult fake_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function,
                                      void **params, void **extra)
{
  BEGIN(NEED_CONTEXT);
  const fake_kernel *kernel = kernel_of(function);
  fake_stream *stream = fake_stream_of(config->hStream);
  if (!kernel || !stream) END(CUDA_ERROR_INVALID_HANDLE);
  unsigned threads = config->blockDimX * config->blockDimY * config->blockDimZ;
  if (extra || threads == 0 || threads > 1024 || config->gridDimX == 0 || config->gridDimY == 0 ||
      config->gridDimZ == 0 ||
      (config->sharedMemBytes > 49152 && (int)config->sharedMemBytes > kernel->smem))
    END(CUDA_ERROR_INVALID_VALUE);
  fake_work *work = fake_work_new(FAKE_LAUNCH);
  fake_launch *launch = &work->op.launch;
  snprintf(launch->name, sizeof launch->name, "%s", kernel->name);
  memcpy(launch->grid, &config->gridDimX, sizeof launch->grid);
  memcpy(launch->block, &config->blockDimX, sizeof launch->block);
  launch->smem = config->sharedMemBytes;
  keep_attributes(launch, config);
  keep_params(launch, params);
  END(fake_enqueue(stream, work));
}

/* ---- Tensor maps ---- */

static int valid_map(const fake_map *map, const void *out)
{
  size_t box_bytes = (size_t)map->box[0] * 2;
  if (map->rank < 1 || map->rank > 5 || (uintptr_t)out % 64 || map->address % 16 || !map->address)
    return 0;
  for (int i = 0; i < map->rank; i++) {
    if (map->dim[i] == 0 || map->dim[i] > (uint64_t)1 << 32) return 0;
    if (map->box[i] == 0 || map->box[i] > 256 || map->element_stride[i] != 1) return 0;
    if (i > 0 && (map->stride[i - 1] % 16 || map->stride[i - 1] >= (uint64_t)1 << 40)) return 0;
  }
  if (map->swizzle == CU_TENSOR_MAP_SWIZZLE_128B && box_bytes > 128) return 0;
  if (map->swizzle == CU_TENSOR_MAP_SWIZZLE_64B && box_bytes > 64) return 0;
  return box_bytes % 16 == 0;
}

static CUresult
fake_cuTensorMapEncodeTiled(CUtensorMap *out, CUtensorMapDataType type, cuuint32_t rank,
                            void *address, const cuuint64_t *dim, const cuuint64_t *stride,
                            const cuuint32_t *box, const cuuint32_t *element_stride,
                            CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                            CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill)
{
  BEGIN(NEED_NOTHING);
  fake_map map = {.magic = "FAKEMAP", .address = (uint64_t)address, .rank = (uint8_t)rank};
  for (cuuint32_t i = 0; i < rank && i < 5; i++) {
    map.dim[i] = dim[i];
    if (i > 0) map.stride[i - 1] = stride[i - 1];
    map.box[i] = (uint16_t)(box[i] > 256 ? 0 : box[i]);
    map.element_stride[i] = (uint8_t)element_stride[i];
  }
  map.type = (uint8_t)type;
  map.interleave = (uint8_t)interleave;
  map.swizzle = (uint8_t)swizzle;
  map.promotion = (uint8_t)promotion;
  map.fill = (uint8_t)fill;
  if (!valid_map(&map, out)) END(CUDA_ERROR_INVALID_VALUE);
  _Static_assert(sizeof map <= sizeof *out, "a map must fit");
  memset(out, 0, sizeof *out);
  memcpy(out, &map, sizeof map);
  END(CUDA_SUCCESS);
}

int fake_map_decode(const void *from, fake_map *out)
{
  memcpy(out, from, sizeof *out);
  return memcmp(out->magic, "FAKEMAP", 8) == 0;
}

void fake_fill_launch(tml_cuda *cuda)
{
#define FILL(f) cuda->p_##f = fake_##f
  FILL(cuLibraryLoadData);
  FILL(cuLibraryUnload);
  FILL(cuLibraryGetKernel);
  FILL(cuKernelSetAttribute);
  FILL(cuKernelGetAttribute);
  FILL(cuKernelGetFunction);
  FILL(cuFuncSetAttribute);
  FILL(cuFuncLoad);
  FILL(cuLaunchKernelEx);
  FILL(cuOccupancyMaxActiveBlocksPerMultiprocessor);
  FILL(cuOccupancyMaxActiveClusters);
  FILL(cuTensorMapEncodeTiled);
#undef FILL
}
