/* Values across the border: Lua tables -> variants, problems and machines -> Lua tables. */
#include <limits.h>
#include <string.h>

#include "gen_lua.h"
#include "problem.h"

#define COUNT(list) (int)(sizeof(list) / sizeof(list)[0])

#define TML_X(id, text) text,
static const char *const pattern_texts[] = {TML_PATTERN_MAP(TML_X)};
static const char *const kind_texts[] = {TML_KIND_MAP(TML_X)};
#undef TML_X
#define TML_X(name, type) #name,
static const char *const param_texts[] = {TML_PARAM_MAP(TML_X)};
#undef TML_X

/* Copies the string at the top of the stack and pops it; nil is "". */
static void take_text(lua_State *lua, char *out, size_t bytes, const char *field)
{
  size_t length = 0;
  const char *text = lua_type(lua, -1) == LUA_TSTRING ? lua_tolstring(lua, -1, &length) : "";
  if (!lua_isnil(lua, -1) && lua_type(lua, -1) != LUA_TSTRING) {
    luaL_error(lua, "variant field '%s' must be a string", field);
  }
  if (length >= bytes || strlen(text) != length) {
    luaL_error(lua, "variant field '%s' = '%s' is too long or holds a NUL", field, text);
  }
  memcpy(out, text, length + 1);
  lua_pop(lua, 1);
}

static void text_field(lua_State *lua, int table, const char *field, char *out, size_t bytes)
{
  lua_getfield(lua, table, field);
  take_text(lua, out, bytes, field);
}

static int number_field(lua_State *lua, int table, const char *field)
{
  int exact = 1;
  lua_Integer value = 0;
  if (lua_getfield(lua, table, field) != LUA_TNIL) value = lua_tointegerx(lua, -1, &exact);
  if (!exact || value < INT_MIN || value > INT_MAX) {
    luaL_error(lua, "variant field '%s' must be an integer", field);
  }
  lua_pop(lua, 1);
  return (int)value;
}

static int find_text(const char *const *texts, int count, const char *text)
{
  for (int i = 0; i < count; i++) {
    if (strcmp(texts[i], text) == 0) return i;
  }
  return -1;
}

/* The index of the field's text; `missing` if the field is nil. */
static int word_field(lua_State *lua, int table, const char *field, const char *const *texts,
                      int count, int missing)
{
  char text[32];
  text_field(lua, table, field, text, sizeof text);
  if (!text[0]) return missing;
  int found = find_text(texts, count, text);
  if (found < 0) luaL_error(lua, "variant field '%s': the runtime knows no '%s'", field, text);
  return found;
}

static void read_params(lua_State *lua, int table, tml_variant *out)
{
  if (lua_getfield(lua, table, "params") == LUA_TNIL) {
    lua_pop(lua, 1);
    return;
  }
  luaL_checktype(lua, -1, LUA_TTABLE);
  unsigned char seen[TML_PARAM_COUNT] = {0};
  lua_Integer count = luaL_len(lua, -1);
  if (count > TML_PARAM_COUNT) luaL_error(lua, "variant '%s' has too many parameters", out->name);
  for (int i = 0; i < (int)count; i++) {
    char text[32];
    lua_geti(lua, -1, i + 1);
    take_text(lua, text, sizeof text, "params");
    int param = find_text(param_texts, COUNT(param_texts), text);
    if (param < 0 || seen[param]++) {
      luaL_error(lua, "variant '%s': kernel parameter '%s' is %s", out->name, text,
                 param < 0 ? "unknown to the runtime" : "listed twice");
    }
    out->params[i] = (tml_param)param;
  }
  out->param_count = (int)count;
  lua_pop(lua, 1);
}

static void read_requires(lua_State *lua, int table, tml_variant *out)
{
  if (lua_getfield(lua, table, "requires") == LUA_TNIL) {
    lua_pop(lua, 1);
    return;
  }
  luaL_checktype(lua, -1, LUA_TTABLE);
  lua_Integer count = luaL_len(lua, -1);
  if (count > COUNT(out->requires))
    luaL_error(lua, "variant '%s' requires too many others", out->name);
  for (int i = 0; i < (int)count; i++) {
    lua_geti(lua, -1, i + 1);
    take_text(lua, out->requires[i], sizeof out->requires[i], "requires");
  }
  out->requires_count = (int)count;
  lua_pop(lua, 1);
}

/* One of the words of a problem ("gemm", "bf16", "nt"); 0 where the field is nil (AUX). */
static int problem_field(lua_State *lua, int table, const char *field, int (*find)(const char *))
{
  char text[32];
  text_field(lua, table, field, text, sizeof text);
  int found = text[0] ? find(text) : 0;
  if (found < 0) luaL_error(lua, "variant field '%s': the runtime knows no '%s'", field, text);
  return found;
}

void gen_read_variant(lua_State *lua, int index, tml_variant *out)
{
  memset(out, 0, sizeof *out);
  index = lua_absindex(lua, index);
  luaL_checktype(lua, index, LUA_TTABLE);
  text_field(lua, index, "name", out->name, sizeof out->name);
  text_field(lua, index, "symbol", out->symbol, sizeof out->symbol);
  text_field(lua, index, "arch", out->arch, sizeof out->arch);
  out->kind =
      (tml_kind)word_field(lua, index, "kind", kind_texts, COUNT(kind_texts), TML_KIND_FUSED);
  out->pattern = (tml_pattern)word_field(lua, index, "pattern", pattern_texts, COUNT(pattern_texts),
                                         TML_PATTERN_NONE);
  out->op = (tml_op)problem_field(lua, index, "op", tml_op_find);
  out->dtype = (tml_dtype)problem_field(lua, index, "dtype", tml_dtype_find);
  out->layout = (tml_layout)problem_field(lua, index, "layout", tml_layout_find);
#define NUMBER(field) out->field = number_field(lua, index, #field)
  NUMBER(world), NUMBER(tile_m), NUMBER(tile_n), NUMBER(tile_k), NUMBER(cluster_m);
  NUMBER(cluster_n), NUMBER(split), NUMBER(stages), NUMBER(box_a), NUMBER(box_b), NUMBER(box_c);
  NUMBER(box_n), NUMBER(chunks_k), NUMBER(chunks_m), NUMBER(movers), NUMBER(move_k);
  NUMBER(threads), NUMBER(registers), NUMBER(smem);
#undef NUMBER
  lua_getfield(lua, index, "cooperative");
  out->cooperative = lua_toboolean(lua, -1);
  lua_pop(lua, 1);
  lua_getfield(lua, index, "overlap");
  out->overlap = lua_toboolean(lua, -1);
  lua_pop(lua, 1);
  read_params(lua, index, out);
  read_requires(lua, index, out);
}

static void set_number(lua_State *lua, const char *field, int64_t value)
{
  lua_pushinteger(lua, (lua_Integer)value);
  lua_setfield(lua, -2, field);
}

static void set_text(lua_State *lua, const char *field, const char *value)
{
  lua_pushstring(lua, value);
  lua_setfield(lua, -2, field);
}

void gen_push_problem(lua_State *lua, const tml_problem *problem)
{
  lua_createtable(lua, 0, 8);
  set_text(lua, "op", tml_op_text(problem->op));
  set_text(lua, "dtype", tml_dtype_text(problem->dtype));
  set_text(lua, "layout", tml_layout_text(problem->layout));
  set_number(lua, "world", problem->world);
  set_number(lua, "m", problem->m);
  set_number(lua, "n", problem->n);
  set_number(lua, "k", problem->k);
  lua_pushboolean(lua, problem->bias);
  lua_setfield(lua, -2, "bias");
}

/* Fields that are zero or empty stay absent: the model then takes the arch's own figures. */
void gen_push_machine(lua_State *lua, const tml_machine *machine)
{
  lua_createtable(lua, 0, 4);
  if (!machine) return;
  if (machine->sms) set_number(lua, "sms", machine->sms);
  if (machine->cc) set_number(lua, "cc", machine->cc);
  if (machine->gpu[0]) set_text(lua, "gpu", machine->gpu);
  if (machine->link[0]) set_text(lua, "link", machine->link);
}
