/* Inside the generator: the sandboxed Lua state and protected calls into it.
 *
 * Rule: whatever may raise a Lua error runs in a body called by gen_run, and a body owns no C
 * resource that a raise would leak: what it allocates with malloc is reachable from its
 * argument. */
#ifndef TML_GEN_LUA_H
#define TML_GEN_LUA_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "gen.h"
#include "status.h"

struct tml_gen {
  lua_State *lua;
  char *source_dir; /* NULL: the embedded copies */
  char *scratch;    /* the file being read; freed at the next read, so that a raise leaks nothing */
};

/* Opens libraries, the sandbox and the host functions. Body for gen_run; the argument is the
 * tml_gen. */
int gen_sandbox(lua_State *lua);

/* Calls body(lua) protected, with `arg` as its only value, a light userdata. A raise gives TEMPLATE
 * with its message (MEMORY if Lua ran out). */
tml_status gen_run(tml_gen *gen, lua_CFunction body, void *arg);
/* In a body: pushes function `name` of gen/init.lua. */
void gen_push_entry(lua_State *lua, const char *name);
/* In a body: fails with the string at `index` (a module's message) as the detail. */
tml_status gen_refused(lua_State *lua, int index, tml_status status);

/* In a body: reads the table at `index`. */
void gen_read_variant(lua_State *lua, int index, tml_variant *out);
/* In a body: pushes a table. */
void gen_push_problem(lua_State *lua, const tml_problem *problem);
void gen_push_machine(lua_State *lua, const tml_machine *machine);

#endif
