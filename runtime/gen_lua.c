/* The sandbox: what gen/ and templates/ may use, and where their text comes from.
 *
 * Pure by construction: no clock, environment, files, random numbers or bytecode. */
#include "gen_lua.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "embed.h"

#define MOST_BYTES (16 << 20) /* of one source file */

static tml_gen *gen_of(lua_State *lua) { return lua_touserdata(lua, lua_upvalueindex(1)); }

/* gen/... or templates/..., without a way out of them. */
static int path_ok(const char *path)
{
  if (strncmp(path, "gen/", 4) != 0 && strncmp(path, "templates/", 10) != 0) return 0;
  return !strstr(path, "..") && !strchr(path, '\\') && strlen(path) < 512;
}

/* NULL or why it failed; on success *text is malloc'd. */
static const char *read_file(const char *folder, const char *path, char **text, size_t *bytes)
{
  char full[4608];
  struct stat info;
  const char *why = NULL;
  if ((size_t)snprintf(full, sizeof full, "%s/%s", folder, path) >= sizeof full)
    return "path too long";
  int fd = open(full, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return strerror(errno);
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > MOST_BYTES) {
    why = "not a regular file, or too large";
  } else if (!(*text = malloc((size_t)info.st_size + 1))) {
    why = "out of memory";
  } else {
    size_t have = 0;
    ssize_t got;
    while (have < (size_t)info.st_size &&
           (got = read(fd, *text + have, (size_t)info.st_size - have)) > 0) {
      have += (size_t)got;
    }
    if (have < (size_t)info.st_size) why = "short read";
    *bytes = have;
  }
  close(fd);
  return why;
}

/* Pushes the text of a source file, or raises. */
static void push_source(lua_State *lua, tml_gen *gen, const char *path)
{
  if (!path_ok(path)) luaL_error(lua, "'%s' is not a file of gen/ or templates/", path);
  if (!gen->source_dir) {
    for (const tml_embedded *file = tml_embedded_files; file->path; file++) {
      if (strcmp(file->path, path) == 0) {
        lua_pushlstring(lua, (const char *)file->bytes, file->size);
        return;
      }
    }
    luaL_error(lua, "%s is not in the library", path);
  }
  size_t bytes = 0;
  free(gen->scratch);
  gen->scratch = NULL;
  const char *why = read_file(gen->source_dir, path, &gen->scratch, &bytes);
  if (why) luaL_error(lua, "%s in %s: %s", path, gen->source_dir, why);
  lua_pushlstring(lua, gen->scratch, bytes);
  free(gen->scratch);
  gen->scratch = NULL;
}

static int host_read_source(lua_State *lua)
{
  push_source(lua, gen_of(lua), luaL_checkstring(lua, 1));
  return 1;
}

/* load(text, chunk name, mode, env): strings only, text only. */
static int host_load(lua_State *lua)
{
  size_t bytes;
  const char *text = luaL_checklstring(lua, 1, &bytes);
  const char *name = luaL_optstring(lua, 2, text);
  int has_env = !lua_isnone(lua, 4);
  if (luaL_loadbufferx(lua, text, bytes, name, "t") != LUA_OK) {
    lua_pushnil(lua);
    lua_insert(lua, -2);
    return 2;
  }
  if (has_env) {
    lua_pushvalue(lua, 4);
    if (!lua_setupvalue(lua, -2, 1)) lua_pop(lua, 1);
  }
  return 1;
}

/* require("space.gemm"): runs gen/space/gemm.lua once. Upvalue 2: name -> value, or false while the
 * module is being loaded. */
static int host_require(lua_State *lua)
{
  const char *name = luaL_checkstring(lua, 1);
  lua_settop(lua, 1);
  lua_pushvalue(lua, 1);
  if (lua_rawget(lua, lua_upvalueindex(2)) == LUA_TBOOLEAN && !lua_toboolean(lua, -1)) {
    return luaL_error(lua, "module '%s' requires itself", name);
  }
  if (!lua_isnil(lua, -1)) return 1;
  lua_pushfstring(lua, "@gen/%s.lua", luaL_gsub(lua, name, ".", "/"));
  const char *chunk = lua_tostring(lua, -1);
  push_source(lua, gen_of(lua), chunk + 1);
  size_t bytes;
  const char *text = lua_tolstring(lua, -1, &bytes);
  if (luaL_loadbufferx(lua, text, bytes, chunk, "t") != LUA_OK) return lua_error(lua);
  lua_pushvalue(lua, 1);
  lua_pushboolean(lua, 0);
  lua_rawset(lua, lua_upvalueindex(2));
  if (lua_pcall(lua, 0, 1, 0) != LUA_OK) {
    lua_pushvalue(lua, 1);
    lua_pushnil(lua);
    lua_rawset(lua, lua_upvalueindex(2));
    return lua_error(lua);
  }
  if (lua_isnil(lua, -1)) {
    lua_pop(lua, 1);
    lua_pushboolean(lua, 1);
  }
  lua_pushvalue(lua, 1);
  lua_pushvalue(lua, -2);
  lua_rawset(lua, lua_upvalueindex(2));
  return 1;
}

/* Sets every field of the table on top, but those in `keep`, to nil. */
static void keep_only(lua_State *lua, const char *const *keep)
{
  lua_pushnil(lua);
  while (lua_next(lua, -2)) {
    lua_pop(lua, 1);
    const char *key = lua_type(lua, -1) == LUA_TSTRING ? lua_tostring(lua, -1) : "";
    size_t i = 0;
    while (keep[i] && strcmp(keep[i], key) != 0) i++;
    if (keep[i]) continue;
    lua_pushvalue(lua, -1); /* assigning nil to a present key is legal during a traversal */
    lua_pushnil(lua);
    lua_rawset(lua, -4);
  }
}

/* Sets every field named in `drop` of the global table `name` to nil. */
static void drop_fields(lua_State *lua, const char *name, const char *const *drop)
{
  lua_getglobal(lua, name);
  for (size_t i = 0; drop[i]; i++) {
    lua_pushnil(lua);
    lua_setfield(lua, -2, drop[i]);
  }
  lua_pop(lua, 1);
}

int gen_sandbox(lua_State *lua)
{
  static const char *const globals[] = {
      "math",   "string",       "table",    "assert",   "error", "ipairs", "next",   "pcall",
      "select", "setmetatable", "tonumber", "tostring", "type",  "rawget", "rawset", NULL};
  static const char *const impure[] = {"random", "randomseed", NULL};
  static const char *const bytecode[] = {"dump", NULL};
  tml_gen *gen = lua_touserdata(lua, 1);
  luaL_requiref(lua, LUA_GNAME, luaopen_base, 1);
  luaL_requiref(lua, LUA_MATHLIBNAME, luaopen_math, 1);
  luaL_requiref(lua, LUA_STRLIBNAME, luaopen_string, 1);
  luaL_requiref(lua, LUA_TABLIBNAME, luaopen_table, 1);
  lua_settop(lua, 0);
  drop_fields(lua, "math", impure);
  drop_fields(lua, "string", bytecode);
  lua_pushglobaltable(lua);
  keep_only(lua, globals);
  lua_pushcfunction(lua, host_load);
  lua_setfield(lua, -2, "load");
  lua_pushlightuserdata(lua, gen);
  lua_pushcclosure(lua, host_read_source, 1);
  lua_setfield(lua, -2, "read_source");
  lua_pushlightuserdata(lua, gen);
  lua_newtable(lua);
  lua_pushcclosure(lua, host_require, 2);
  lua_setfield(lua, -2, "require");
  return 0;
}
