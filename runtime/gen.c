/* The generator as C calls it: each function is one protected call of gen/init.lua. */
#include "gen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gen_lua.h"
#include "problem.h"

static const char init_key = 0; /* its address is the registry key of gen/init.lua's table */

tml_status gen_run(tml_gen *gen, lua_CFunction body, void *arg)
{
  lua_State *lua = gen->lua;
  if (!lua_checkstack(lua, 8)) return tml_fail(TML_MEMORY, "out of memory in the generator");
  lua_pushcfunction(lua, body);
  lua_pushlightuserdata(lua, arg);
  int result = lua_pcall(lua, 1, 0, 0);
  if (result == LUA_OK) return TML_OK;
  tml_status status = TML_TEMPLATE;
  if (result == LUA_ERRMEM) {
    status = tml_fail(TML_MEMORY, "out of memory in the generator");
  } else if (lua_type(lua, -1) == LUA_TSTRING) {
    tml_fail(status, "%s", lua_tostring(lua, -1));
  } else {
    tml_fail(status, "gen/ raised a %s instead of a message", luaL_typename(lua, -1));
  }
  lua_pop(lua, 1);
  return status;
}

void gen_push_entry(lua_State *lua, const char *name)
{
  lua_rawgetp(lua, LUA_REGISTRYINDEX, &init_key);
  if (lua_getfield(lua, -1, name) != LUA_TFUNCTION)
    luaL_error(lua, "gen/init.lua has no '%s'", name);
  lua_remove(lua, -2);
}

tml_status gen_refused(lua_State *lua, int index, tml_status status)
{
  const char *text = lua_type(lua, index) == LUA_TSTRING ? lua_tostring(lua, index) : NULL;
  return tml_fail(status, "%s", text ? text : "gen/ gave no reason");
}

/* ---- Open and close -------------------------------------------------------------------------- */

typedef struct open_call {
  const char *isa;
} open_call;

static int load_init(lua_State *lua)
{
  const open_call *call = lua_touserdata(lua, 1);
  lua_getglobal(lua, "require");
  lua_pushliteral(lua, "init");
  lua_call(lua, 1, 1);
  if (!lua_istable(lua, -1)) return luaL_error(lua, "gen/init.lua must return a table");
  lua_rawsetp(lua, LUA_REGISTRYINDEX, &init_key);
  gen_push_entry(lua, "set_isa");
  if (call->isa)
    lua_pushstring(lua, call->isa);
  else
    lua_pushnil(lua);
  lua_call(lua, 1, 0);
  return 0;
}

/* Plain malloc: luaL_newstate's panic and warn functions would print. */
static void *allocate(void *user, void *block, size_t old_bytes, size_t bytes)
{
  (void)user, (void)old_bytes;
  if (bytes) return realloc(block, bytes);
  free(block);
  return NULL;
}

tml_status tml_gen_open(tml_gen **out, const char *source_dir, const char *isa)
{
  tml_status status = TML_OK;
  open_call call = {isa};
  *out = NULL;
  tml_gen *gen = calloc(1, sizeof *gen);
  if (gen && source_dir) gen->source_dir = strdup(source_dir);
  if (gen) gen->lua = lua_newstate(allocate, NULL);
  if (!gen || !gen->lua || (source_dir && !gen->source_dir)) {
    status = tml_fail(TML_MEMORY, "out of memory in the generator");
    goto fail;
  }
  TRY_GOTO(gen_run(gen, gen_sandbox, gen), fail);
  TRY_GOTO(gen_run(gen, load_init, &call), fail);
  *out = gen;
  return TML_OK;
fail:
  tml_gen_close(gen);
  return status;
}

void tml_gen_close(tml_gen *gen)
{
  if (!gen) return;
  if (gen->lua) lua_close(gen->lua);
  free(gen->source_dir);
  free(gen->scratch);
  free(gen);
}

/* ---- Calls ----------------------------------------------------------------------------------- */

/* Arguments and results of every call below; a body uses the fields that it needs. */
typedef struct gen_call {
  tml_status status; /* as decided by the body; a raise overrides it */
  const char *name, *arch, *dtype;
  int number, lines;
  const tml_problem *problem;
  const tml_machine *machine;
  tml_variant *variant;
  tml_pad *pad;
  char *text; /* malloc */
  size_t bytes;
  tml_ranked *ranked;
  size_t capacity, count;
  char *reason;
  size_t reason_bytes;
} gen_call;

/* Runs the body; its own status, or that of a raise. */
static tml_status run_call(tml_gen *gen, lua_CFunction body, gen_call *call)
{
  TRY(gen_run(gen, body, call));
  return call->status;
}

static int pad_body(lua_State *lua)
{
  gen_call *call = lua_touserdata(lua, 1);
  gen_push_entry(lua, "pad");
  lua_call(lua, 0, 1);
  luaL_checktype(lua, -1, LUA_TTABLE);
#define TML_X(field)                                \
  if (lua_getfield(lua, -1, #field) != LUA_TNUMBER) \
    luaL_error(lua, "the pad has no '%s'", #field); \
  call->pad->field = (int)lua_tointeger(lua, -1);   \
  lua_pop(lua, 1);
  TML_PAD_MAP(TML_X)
#undef TML_X
  return 0;
}

tml_status tml_gen_pad(tml_gen *gen, tml_pad *out)
{
  memset(out, 0, sizeof *out);
  gen_call call = {.pad = out};
  return run_call(gen, pad_body, &call);
}

/* variant(name) -> table | nil, "unknown" | "illegal", message */
static int variant_body(lua_State *lua)
{
  gen_call *call = lua_touserdata(lua, 1);
  gen_push_entry(lua, "variant");
  lua_pushstring(lua, call->name);
  lua_call(lua, 1, 3);
  if (!lua_isnil(lua, -3)) {
    gen_read_variant(lua, -3, call->variant);
    return 0;
  }
  const char *kind = lua_type(lua, -2) == LUA_TSTRING ? lua_tostring(lua, -2) : "";
  call->status =
      gen_refused(lua, -1, strcmp(kind, "illegal") == 0 ? TML_UNSUPPORTED : TML_ARGUMENT);
  return 0;
}

tml_status tml_gen_variant(tml_gen *gen, const char *name, tml_variant *out)
{
  memset(out, 0, sizeof *out);
  gen_call call = {.name = name, .variant = out};
  return run_call(gen, variant_body, &call);
}

static int aux_body(lua_State *lua)
{
  gen_call *call = lua_touserdata(lua, 1);
  gen_push_entry(lua, "aux");
  lua_pushstring(lua, call->name);
  lua_pushstring(lua, call->arch);
  lua_pushstring(lua, call->dtype);
  lua_pushinteger(lua, call->number);
  lua_call(lua, 4, 2);
  if (lua_isnil(lua, -2))
    call->status = gen_refused(lua, -1, TML_UNSUPPORTED);
  else
    gen_read_variant(lua, -2, call->variant);
  return 0;
}

tml_status tml_gen_aux(tml_gen *gen, const char *kernel, const char *arch, tml_dtype dtype,
                       int world, tml_variant *out)
{
  memset(out, 0, sizeof *out);
  gen_call call = {.name = kernel,
                   .arch = arch,
                   .dtype = tml_dtype_text(dtype),
                   .number = world,
                   .variant = out};
  return run_call(gen, aux_body, &call);
}

static int expand_body(lua_State *lua)
{
  gen_call *call = lua_touserdata(lua, 1);
  gen_push_entry(lua, "expand");
  lua_pushstring(lua, call->name);
  lua_pushboolean(lua, call->lines);
  lua_call(lua, 2, 1);
  const char *text = luaL_checklstring(lua, -1, &call->bytes);
  call->text = malloc(call->bytes + 1);
  if (call->text)
    memcpy(call->text, text, call->bytes + 1);
  else
    call->status = tml_fail(TML_MEMORY, "out of memory for the source of %s", call->name);
  return 0;
}

tml_status tml_gen_expand(tml_gen *gen, const char *name, int lines, char **text, size_t *bytes)
{
  gen_call call = {.name = name, .lines = lines};
  tml_status status = run_call(gen, expand_body, &call);
  *text = call.text;
  *bytes = status == TML_OK ? call.bytes : 0;
  if (status == TML_TEMPLATE) tml_wrap(status, "%s", name);
  return status;
}

/* rank(arch, problem, machine) -> { {name=, us=}, ... } | nil, message */
static int rank_body(lua_State *lua)
{
  gen_call *call = lua_touserdata(lua, 1);
  gen_push_entry(lua, "rank");
  lua_pushstring(lua, call->arch);
  gen_push_problem(lua, call->problem);
  gen_push_machine(lua, call->machine);
  lua_call(lua, 3, 2);
  if (lua_isnil(lua, -2)) {
    call->status = gen_refused(lua, -1, TML_UNSUPPORTED);
    return 0;
  }
  luaL_checktype(lua, -2, LUA_TTABLE);
  call->count = (size_t)luaL_len(lua, -2);
  for (size_t i = 0; i < call->count && i < call->capacity; i++) {
    tml_ranked *row = &call->ranked[i];
    lua_geti(lua, -2, (lua_Integer)i + 1);
    lua_getfield(lua, -1, "name");
    const char *name = luaL_checkstring(lua, -1);
    if (strlen(name) >= sizeof row->name) luaL_error(lua, "variant name '%s' is too long", name);
    strcpy(row->name, name);
    lua_getfield(lua, -2, "us");
    row->us = luaL_checknumber(lua, -1);
    lua_pop(lua, 3);
  }
  return 0;
}

tml_status tml_gen_rank(tml_gen *gen, const char *arch, const tml_problem *problem,
                        const tml_machine *machine, tml_ranked *out, size_t capacity, size_t *count)
{
  gen_call call = {
      .arch = arch, .problem = problem, .machine = machine, .ranked = out, .capacity = capacity};
  tml_status status = run_call(gen, rank_body, &call);
  *count = status == TML_OK ? call.count : 0;
  return status;
}

/* serves(name, problem) -> true | false, reason */
static int serves_body(lua_State *lua)
{
  gen_call *call = lua_touserdata(lua, 1);
  gen_push_entry(lua, "serves");
  lua_pushstring(lua, call->name);
  gen_push_problem(lua, call->problem);
  lua_call(lua, 2, 2);
  if (!lua_toboolean(lua, -2)) call->status = gen_refused(lua, -1, TML_UNSUPPORTED);
  return 0;
}

tml_status tml_gen_serves(tml_gen *gen, const char *name, const tml_problem *problem, char *reason,
                          size_t bytes)
{
  gen_call call = {.name = name, .problem = problem};
  tml_status status = run_call(gen, serves_body, &call);
  if (reason && bytes) snprintf(reason, bytes, "%s", status == TML_OK ? "" : tml_last_error());
  return status;
}

static int arch_body(lua_State *lua)
{
  gen_call *call = lua_touserdata(lua, 1);
  gen_push_entry(lua, "arch_of");
  lua_pushinteger(lua, call->number);
  lua_call(lua, 1, 2);
  if (lua_isnil(lua, -2)) {
    call->status = gen_refused(lua, -1, TML_UNSUPPORTED);
    return 0;
  }
  const char *name = luaL_checkstring(lua, -2);
  if (strlen(name) >= call->reason_bytes) luaL_error(lua, "arch name '%s' is too long", name);
  strcpy(call->reason, name);
  return 0;
}

tml_status tml_gen_arch(tml_gen *gen, int cc, char *out, size_t bytes)
{
  out[0] = 0;
  gen_call call = {.number = cc, .reason = out, .reason_bytes = bytes};
  return run_call(gen, arch_body, &call);
}
