/* Preloaded: a machine without CUDA, NVRTC, NCCL and cuBLASLt, wherever they are installed. */
#include <dlfcn.h>
#include <string.h>

__attribute__((visibility("default"))) void *dlopen(const char *name, int flags);
void *dlopen(const char *name, int flags)
{
  static const char *const hidden[] = {"libcuda", "libnvrtc", "libnccl", "libcublas"};
  void *(*real)(const char *, int);
  void *symbol = dlsym(RTLD_NEXT, "dlopen");
  memcpy(&real, &symbol, sizeof real);
  for (unsigned i = 0; name && i < sizeof hidden / sizeof *hidden; i++)
    if (strstr(name, hidden[i])) name = "/nonexistent/libhidden.so";
  return real(name, flags);
}
