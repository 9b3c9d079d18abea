/* copy.c - see copy.h.
 *
 * One byte says what follows: an integer's or float's 8 bytes; a string's length (u32) and bytes; a
 * table's two counts (u32), the values at 1..n, then pairs of key and value. */
#include "lua/copy.h"

#include "lua/core.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { NIL, FALSE, TRUE, INTEGER, FLOAT, STRING, TABLE };

/* --- writing --- */

struct level { /* the table being written, and at which of its keys */
    const struct level *above;
    const void *table;
    int key; /* stack index; 0: `number` */
    lua_Integer number;
};

struct writer {
    lua_State *L;
    const char *what;
    struct mk_bytes *out;
    size_t begin;
    struct mk_err *err;
};

static int print_key(char *to, size_t room, lua_State *L, const struct level *l)
{
    if (l->key == 0 || lua_isinteger(L, l->key))
        return snprintf(to, room, "[%lld]",
                        (long long)(l->key ? lua_tointeger(L, l->key) : l->number));
    switch (lua_type(L, l->key)) {
    case LUA_TSTRING: return snprintf(to, room, ".%.60s", lua_tostring(L, l->key));
    case LUA_TNUMBER: return snprintf(to, room, "[%g]", lua_tonumber(L, l->key));
    case LUA_TBOOLEAN:
        return snprintf(to, room, "[%s]", lua_toboolean(L, l->key) ? "true" : "false");
    default: return snprintf(to, room, "[a %s]", lua_typename(L, lua_type(L, l->key)));
    }
}

static size_t print_path(char *to, size_t room, lua_State *L, const struct level *l)
{
    size_t used = l->above ? print_path(to, room, L, l->above) : 0;
    if (used < room) {
        int n = print_key(to + used, room - used, L, l);
        used += n > 0 ? (size_t)n : 0;
    }
    return used < room ? used : room;
}

static bool refuse(struct writer *w, const struct level *l, int code, const char *why)
{
    char path[250] = "";
    if (l)
        print_path(path, sizeof(path), w->L, l);
    mk_fail(w->err, code, "%s%s: %s", w->what, path, why);
    return false;
}

static bool write_value(struct writer *w, int index, const struct level *above);

/* Its values at 1..n; what lies there is read without metamethods. */
static bool write_list(struct writer *w, int index, struct level *l, lua_Integer count)
{
    for (lua_Integer i = 1; i <= count; i++) {
        l->number = i;
        lua_rawgeti(w->L, index, i);
        bool ok = write_value(w, lua_gettop(w->L), l);
        lua_pop(w->L, 1);
        if (!ok)
            return false;
    }
    return true;
}

static bool listed(lua_State *L, int key, lua_Integer count)
{
    return lua_isinteger(L, key) && lua_tointeger(L, key) >= 1 && lua_tointeger(L, key) <= count;
}

static bool write_pairs(struct writer *w, int index, struct level *l, lua_Integer count,
                        uint32_t *pairs)
{
    lua_State *L = w->L;
    lua_pushnil(L);
    while (lua_next(L, index)) {
        int key = lua_gettop(L) - 1;
        l->key = key;
        if (!listed(L, key, count)) {
            int type = lua_type(L, key);
            bool plain = type == LUA_TSTRING || type == LUA_TNUMBER || type == LUA_TBOOLEAN;
            if (!plain)
                refuse(w, l, EINVAL, "keys are strings, numbers or booleans");
            if (!plain || !write_value(w, key, l) || !write_value(w, key + 1, l)) {
                lua_pop(L, 2);
                return false;
            }
            ++*pairs;
        }
        lua_pop(L, 1);
    }
    return true;
}

static bool write_table(struct writer *w, int index, const struct level *above)
{
    lua_State *L = w->L;
    struct level l = { above, lua_topointer(L, index), 0, 0 };
    unsigned depth = 0;
    for (const struct level *up = above; up; up = up->above, depth++)
        if (up->table == l.table)
            return refuse(w, above, EINVAL, "a table that contains itself cannot be copied");
    if (depth >= MK_COPY_DEPTH || !lua_checkstack(L, 8))
        return refuse(w, above, E2BIG, "more than 100 tables one inside the other");
    if (lua_getmetatable(L, index)) {
        lua_pop(L, 1);
        return refuse(w, above, EINVAL, "a table with a metatable cannot be copied");
    }
    lua_Unsigned count = lua_rawlen(L, index);
    if (count > MK_COPY_MAX)
        return refuse(w, above, E2BIG, "it is larger than 64 MiB");
    mk_bytes_u8(w->out, TABLE);
    mk_bytes_u32(w->out, (uint32_t)count);
    size_t counter = w->out->length;
    uint32_t pairs = 0;
    mk_bytes_u32(w->out, 0);
    if (!write_list(w, index, &l, (lua_Integer)count) ||
        !write_pairs(w, index, &l, (lua_Integer)count, &pairs))
        return false;
    mk_bytes_put_u32(w->out, counter, pairs);
    return true;
}

static void write_number(struct writer *w, int index)
{
    if (lua_isinteger(w->L, index)) {
        mk_bytes_u8(w->out, INTEGER);
        mk_bytes_u64(w->out, (uint64_t)lua_tointeger(w->L, index));
    } else {
        double value = lua_tonumber(w->L, index);
        mk_bytes_u8(w->out, FLOAT);
        mk_bytes_add(w->out, &value, sizeof(value));
    }
}

static bool write_string(struct writer *w, int index, const struct level *above)
{
    size_t length;
    const char *bytes = lua_tolstring(w->L, index, &length);
    if (length > MK_COPY_MAX)
        return refuse(w, above, E2BIG, "it is larger than 64 MiB");
    mk_bytes_u8(w->out, STRING);
    mk_bytes_u32(w->out, (uint32_t)length);
    mk_bytes_add(w->out, bytes, length);
    return true;
}

static bool write_value(struct writer *w, int index, const struct level *above)
{
    char why[80];
    bool ok = true;
    int type = lua_type(w->L, index);
    switch (type) {
    case LUA_TNIL: mk_bytes_u8(w->out, NIL); break;
    case LUA_TBOOLEAN: mk_bytes_u8(w->out, lua_toboolean(w->L, index) ? TRUE : FALSE); break;
    case LUA_TNUMBER: write_number(w, index); break;
    case LUA_TSTRING: ok = write_string(w, index, above); break;
    case LUA_TTABLE: ok = write_table(w, index, above); break;
    default:
        snprintf(why, sizeof(why), "a %s cannot be copied",
                 type == LUA_TLIGHTUSERDATA ? "userdata" : lua_typename(w->L, type));
        return refuse(w, above, EINVAL, why);
    }
    if (ok && w->out->length - w->begin > MK_COPY_MAX)
        return refuse(w, above, E2BIG, "it is larger than 64 MiB");
    if (ok && w->out->failed)
        return refuse(w, above, ENOMEM, "out of memory");
    return ok;
}

bool mk_copy_write(lua_State *L, int index, const char *what, struct mk_bytes *out,
                   struct mk_err *err)
{
    struct writer w = { L, what, out, out->length, err };
    int top = lua_gettop(L);
    bool ok = !out->failed && write_value(&w, lua_absindex(L, index), NULL);
    if (out->failed)
        mk_fail(err, ENOMEM, "%s: out of memory", what);
    lua_settop(L, top);
    if (!ok)
        out->length = w.begin;
    return ok;
}

/* --- reading --- */

static bool read_value(lua_State *L, struct mk_reader *r, unsigned depth);

static bool is_key(lua_State *L)
{
    int type = lua_type(L, -1);
    return type == LUA_TSTRING || type == LUA_TBOOLEAN || lua_isinteger(L, -1) ||
           (type == LUA_TNUMBER && lua_tonumber(L, -1) == lua_tonumber(L, -1)); /* not NaN */
}

/* A count is trusted only as far as bytes for so many values are there. */
static int at_most(uint32_t count, size_t left)
{
    size_t hint = count < left ? count : left;
    return hint < 10000 ? (int)hint : 10000;
}

static bool read_table(lua_State *L, struct mk_reader *r, unsigned depth)
{
    uint32_t count = mk_reader_u32(r), pairs = mk_reader_u32(r);
    if (r->failed || depth >= MK_COPY_DEPTH || !lua_checkstack(L, 8) || count > r->left ||
        pairs > r->left / 2)
        return false;
    lua_createtable(L, at_most(count, r->left), at_most(pairs, r->left / 2));
    for (uint32_t i = 1; i <= count; i++) {
        if (!read_value(L, r, depth + 1))
            return false;
        lua_rawseti(L, -2, i);
    }
    for (uint32_t i = 0; i < pairs; i++) {
        if (!read_value(L, r, depth + 1) || !is_key(L) || !read_value(L, r, depth + 1))
            return false;
        lua_rawset(L, -3);
    }
    return true;
}

static bool read_string(lua_State *L, struct mk_reader *r)
{
    uint32_t length = mk_reader_u32(r);
    const uint8_t *bytes = mk_reader_take(r, length);
    if (bytes)
        lua_pushlstring(L, (const char *)bytes, length);
    return bytes;
}

static bool read_value(lua_State *L, struct mk_reader *r, unsigned depth)
{
    double value;
    switch (mk_reader_u8(r)) {
    case NIL: lua_pushnil(L); break;
    case FALSE: lua_pushboolean(L, 0); break;
    case TRUE: lua_pushboolean(L, 1); break;
    case INTEGER: lua_pushinteger(L, (lua_Integer)mk_reader_u64(r)); break;
    case FLOAT:
        mk_reader_get(r, &value, sizeof(value));
        lua_pushnumber(L, value);
        break;
    case STRING: return read_string(L, r);
    case TABLE: return read_table(L, r, depth);
    default: return false;
    }
    return !r->failed;
}

/* Returns the value, or nothing when the bytes are malformed. */
static int read_protected(lua_State *L)
{
    struct mk_reader *r = lua_touserdata(L, 1);
    return read_value(L, r, 0) && r->left == 0;
}

bool mk_copy_read(lua_State *L, const void *bytes, size_t length, struct mk_err *err)
{
    struct mk_reader r = { .at = bytes, .left = length };
    int top = lua_gettop(L);
    bool enough = lua_checkstack(L, 3);
    if (enough) {
        lua_pushcfunction(L, read_protected);
        lua_pushlightuserdata(L, &r);
    }
    if (!enough || lua_pcall(L, 1, LUA_MULTRET, 0) != LUA_OK) {
        lua_settop(L, top);
        mk_fail(err, ENOMEM, "out of memory for a copied value");
        return false;
    }
    if (lua_gettop(L) == top)
        mk_fail(err, EBADMSG, "a copied value is malformed");
    return lua_gettop(L) > top;
}

/* --- for the Lua parts --- */

static int bytes_gc(lua_State *L)
{
    mk_bytes_free(lua_touserdata(L, 1));
    return 0;
}

struct mk_bytes *mk_push_bytes(lua_State *L)
{
    struct mk_bytes *b = lua_newuserdatauv(L, sizeof(*b), 0);
    *b = (struct mk_bytes){ 0 };
    if (luaL_newmetatable(L, "minikvm.bytes")) {
        lua_pushcfunction(L, bytes_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return b;
}

int mk_lua_pack(lua_State *L)
{
    struct mk_err err;
    const char *what = luaL_checkstring(L, 2);
    struct mk_bytes *b = mk_push_bytes(L);
    if (!mk_copy_write(L, 1, what, b, &err))
        return mk_push_err(L, &err);
    lua_pushlstring(L, (const char *)b->data, b->length);
    mk_bytes_free(b);
    return 1;
}

int mk_lua_unpack(lua_State *L)
{
    struct mk_err err;
    size_t length;
    const char *bytes = luaL_checklstring(L, 1, &length);
    return mk_copy_read(L, bytes, length, &err) ? 1 : mk_push_err(L, &err);
}
