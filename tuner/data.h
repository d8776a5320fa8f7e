/* The data of a problem on one rank: inputs made on the device from seeds that every rank can
 * repeat, poisoned outputs, and the comparison with the fp32 reference kernel. */
#ifndef TML_DATA_H
#define TML_DATA_H

#include "rig.h"

#define DATA_MAX_COPIES 8
#define DATA_GUARD 1024 /* poisoned bytes behind the output */

typedef struct data {
  tml_problem problem;
  int rank, world;     /* of the problem: 0 of 1 for a plain GEMM */
  int seed_rank;       /* of the process: ranks of a plain GEMM have their own inputs */
  int64_t shard, rows; /* rows of a full shard; of this rank's */
  int64_t c_rows;      /* rows of the output here */
  int copies;          /* of B, rotated from call to call */
  uint64_t generation; /* of the inputs; changes the seeds */
  CUdeviceptr a, b[DATA_MAX_COPIES], bias, c;
  CUdeviceptr symmetric; /* gemm_ar: 0, or where C lies instead of `c`: memory of rig_symmetric */
  CUdeviceptr
      full; /* room for the unfused sequence: gathered A, or the product before the reduction */
} data;

/* Copies of B that push each other out of the L2 (as the peers were timed). */
int data_copies(const tml_problem *problem);
/* Local. with_full: also `full`, filled with the gathered A for ag_gemm. */
tml_status data_create(rig *r, const tml_problem *problem, int copies, int with_full, data *out);
void data_free(rig *r, data *d);
/* The same buffers for a call with m rows: the inputs of fewer rows are the first of those that were filled.
 * Shards of every m up to the first have room where that was a multiple of the world. */
void data_set_rows(data *d, int64_t m);
/* Enqueues new inputs of a generation; B copy i differs from copy j. */
tml_status data_fill(rig *r, data *d, uint64_t generation);
/* Enqueues NaN over the whole output and its guard. */
tml_status data_poison(rig *r, data *d);
tml_args data_args(const data *d, int call);
size_t data_output_bytes(const data *d);
static inline CUdeviceptr data_output(const data *d) { return d->symmetric ? d->symmetric : d->c; }
/* Hash of the output; waits. */
tml_status data_hash(rig *r, const data *d, uint64_t *out);
/* Writes the output, packed rows, to a file; waits. */
tml_status data_save(rig *r, const data *d, const char *path);
tml_status data_hash_bytes(rig *r, CUdeviceptr at, size_t bytes, uint64_t *out);

typedef struct data_error {
  double relative;   /* Frobenius; NAN if anything is not a number */
  int64_t unwritten; /* elements that still hold the poison */
  int overrun;       /* the guard was written */
} data_error;
/* What rows of the output should be, bias added, in fp32 on the host: one serves every call over the
 * same inputs. */
typedef struct data_reference {
  int64_t rows, step; /* row i stands for row i * step of the output */
  float *sum;
} data_reference;
/* By the reference kernel, for B copy 0, over rows spread evenly: at most as many as `work`
 * multiply-adds allow, all of them if they fit. Local; waits. */
tml_status data_reference_make(rig *r, const data *d, double work, data_reference *out);
void data_reference_free(data_reference *reference);
/* Compares the output of the last call (B copy 0). Local; waits. */
tml_status data_compare_with(rig *r, const data *d, const data_reference *reference,
                             data_error *out);
/* Both, for one call. */
tml_status data_compare(rig *r, const data *d, double work, data_error *out);
/* The largest relative error that a result of this pattern may show. */
double data_limit(const tml_problem *problem, tml_pattern pattern);

/* What the comparison needs to make other ranks' inputs again. */
enum { DATA_SEED_A = 1, DATA_SEED_B, DATA_SEED_BIAS };
uint64_t data_seed(uint64_t what, uint64_t rank, uint64_t copy, uint64_t generation);
int64_t data_rows_of(const data *d, int rank);
int data_bias_rank(const data *d);
/* Enqueues the gathered A of an ag_gemm at `to`. */
tml_status data_fill_gathered(rig *r, const data *d, CUdeviceptr to);

/* One fill kernel over `blocks` blocks (0: as many as are useful). */
tml_status data_fill_blocks(rig *r, tml_dtype dtype, CUdeviceptr to, uint64_t count, uint64_t seed,
                            unsigned blocks);

/* The same by the host: for the emulator, and for `host_inputs`. */
tml_status data_host_fill(rig *r, tml_dtype dtype, CUdeviceptr to, uint64_t count, uint64_t seed);
tml_status data_host_reference(rig *r, tml_dtype dtype, const tml_values *values);
float data_to_float(tml_dtype dtype, uint16_t bits);

#endif
