/* The forge: compiles a set of variants into a bank, in parallel, skipping what is there. Used by
 * `build` for the declared space and by `tune` for its candidates. */
#ifndef TML_FORGE_H
#define TML_FORGE_H

#include "../runtime/api.h"
#include "../runtime/bank.h"

typedef struct forge_list {
  char (*names)[TML_NAME_BYTES];
  char (*archs)[16];
  double *ms; /* of one core, that forge_run spent on compiling each; 0: it was there */
  size_t count, capacity;
} forge_list;

typedef struct forge_result {
  int total, compiled, reused, refused, failed;
  double seconds, slowest_ms;
  char slowest[TML_NAME_BYTES];
  char first_error[1024]; /* of `failed` */
} forge_result;

/* Adds once; library variants have nothing to compile and are left out. */
void forge_add(forge_list *list, const tml_variant *variant);
#define FORGE_DTYPE(dtype) (1u << (dtype))
#define FORGE_ALL_DTYPES (FORGE_DTYPE(TML_BF16) | FORGE_DTYPE(TML_FP16))

/* Adds the kernels that make inputs, references and biases of these types, and what a world above
 * one needs besides: those touch no elements and exist once for all types. */
tml_status forge_add_aux(forge_list *list, tml_gen *gen, const char *arch, unsigned dtypes,
                         int world);
void forge_list_free(forge_list *list);
/* Compiles what the bank at `path` lacks and publishes. Errors of single variants are counted in
 * *out; the status is of the whole: MISS (no NVRTC, bank refused), IO, MEMORY. */
tml_status forge_run(const forge_list *list, const char *path, const char *source_dir, int threads,
                     int silent, forge_result *out);

#endif
