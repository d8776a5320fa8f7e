/* Plans and launches. */
#ifndef TML_PLAN_H
#define TML_PLAN_H

#include "comm.h"

typedef struct tml_map_table {
  CUtensorMap at[1 + TML_MAX_WORLD];
} tml_map_table;

/* One field per kernel parameter of gen.h; a launch fills it and points the kernel's parameters into it. */
#define TML_X(name, type) type name;
typedef struct tml_values {
  TML_PARAM_MAP(TML_X)
} tml_values;
#undef TML_X

/* As tml_plan_create, with one variant for every m (tuner, check, bench). Collective. */
tml_status tml_plan_create_forced(tml_plan **out, tml_comm *comm, const tml_problem *problem,
                                  const char *variant);
/* One line for each bucket: bucket, variant, source of the choice ("pick", "model", "forced", "fallback"). */
typedef void (*tml_explain_fn)(void *user, int64_t bucket, const char *variant, const char *source);
void tml_plan_explain(const tml_plan *plan, tml_explain_fn fn, void *user);

/* Called when a comm goes away: its plans stay, but every launch of them is refused. */
void tml_plans_orphan(tml_comm *comm);

/* Launches an AUX kernel over `values` (grid blocks, its declared threads). */
tml_status tml_launch_aux(tml_ctx *ctx, const tml_kernel *kernel, const tml_values *values,
                          unsigned grid, CUstream stream);

#endif
