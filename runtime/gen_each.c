/* Walking the declared space: names are matched here, points are made in gen/. */
#include <string.h>

#include "gen_lua.h"

typedef struct each_call {
  tml_status status;
  const tml_filter *filter;
  tml_variant_fn fn;
  void *user;
} each_call;

int tml_gen_glob(const char *glob, const char *text)
{
  const char *star = NULL, *resume = NULL; /* the last star is the only place to come back to */
  while (*text) {
    if (*glob == '*') {
      star = glob++;
      resume = text;
    } else if (*glob == '?' || *glob == *text) {
      glob++, text++;
    } else if (star) {
      glob = star + 1;
      text = ++resume;
    } else {
      return 0;
    }
  }
  while (*glob == '*') glob++;
  return !*glob;
}

/* fn(variant, reason) as gen/init.lua calls it; truthy stops. */
static int visit(lua_State *lua)
{
  each_call *call = lua_touserdata(lua, lua_upvalueindex(1));
  const char *glob = call->filter ? call->filter->glob : NULL;
  tml_variant variant;
  lua_settop(lua, 2);
  lua_getfield(lua, 1, "name");
  if (glob && *glob && !tml_gen_glob(glob, luaL_checkstring(lua, -1))) return 0;
  gen_read_variant(lua, 1, &variant);
  lua_pushboolean(
      lua, call->fn(call->user, &variant, lua_isnil(lua, 2) ? NULL : luaL_checkstring(lua, 2)));
  return 1;
}

static void set_filter(lua_State *lua, const char *field, const char *value)
{
  if (!value || !*value) return;
  lua_pushstring(lua, value);
  lua_setfield(lua, -2, field);
}

/* each(filter, fn) -> nothing | nil, message when the filter names something unknown */
static int each_body(lua_State *lua)
{
  each_call *call = lua_touserdata(lua, 1);
  const tml_filter *filter = call->filter;
  gen_push_entry(lua, "each");
  lua_createtable(lua, 0, 6);
  if (filter) {
    set_filter(lua, "op", filter->op);
    set_filter(lua, "arch", filter->arch);
    set_filter(lua, "dtype", filter->dtype);
    if (filter->glob) {
      lua_pushlstring(lua, filter->glob, strcspn(filter->glob, "*?"));
      lua_setfield(lua, -2, "prefix");
    }
    if (filter->world) {
      lua_pushinteger(lua, filter->world);
      lua_setfield(lua, -2, "world");
    }
    lua_pushboolean(lua, filter->refused);
    lua_setfield(lua, -2, "refused");
  }
  lua_pushlightuserdata(lua, call);
  lua_pushcclosure(lua, visit, 1);
  lua_call(lua, 2, 2);
  if (lua_isnil(lua, -2) && !lua_isnil(lua, -1)) call->status = gen_refused(lua, -1, TML_ARGUMENT);
  return 0;
}

tml_status tml_gen_each(tml_gen *gen, const tml_filter *filter, tml_variant_fn fn, void *user)
{
  each_call call = {.filter = filter, .fn = fn, .user = user};
  TRY(gen_run(gen, each_body, &call));
  return call.status;
}
