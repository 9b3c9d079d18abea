/* bytecode.c - compiles a part written in Lua for the program that holds it, with the same Lua.
 *   bytecode FILE NAME OUT [STRIP]   its chunk is minikvm/NAME.lua, / for each dot
 * Run by the Makefile. Lines stay in, for messages, unless there is a fourth argument; the names of
 * local variables, a third of what a part takes to be loaded, do not. The format is that of Lua
 * 5.4's ldump.c. */
#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- without the names ---- */

static const unsigned char *next; /* what is to be copied */
static FILE *out;

static void copy(size_t size)
{
    fwrite(next, 1, size, out);
    next += size;
}

/* Seven bits a byte, the highest first; the last byte has bit 7. */
static size_t read_number(void)
{
    size_t n = 0;
    do
        n = n << 7 | (*next & 0x7f);
    while (!(*next++ & 0x80));
    return n;
}

static size_t copy_number(void)
{
    const unsigned char *start = next;
    size_t n = read_number();
    fwrite(start, 1, (size_t)(next - start), out);
    return n;
}

/* Its size, one more than its bytes; 0: there is none. */
static void copy_string(void)
{
    size_t size = copy_number();
    copy(size ? size - 1 : 0);
}

static void skip_string(void)
{
    size_t size = read_number();
    next += size ? size - 1 : 0;
}

static void copy_constant(void)
{
    enum { FLOAT = 0x13, INTEGER = 0x03, SHORT = 0x04, LONG = 0x14 }; /* else there is no value */
    int tag = *next;
    copy(1);
    if (tag == FLOAT || tag == INTEGER)
        copy(8);
    else if (tag == SHORT || tag == LONG)
        copy_string();
}

static void copy_function(void)
{
    copy_string();                          /* the source */
    copy_number(), copy_number();           /* its first and last line */
    copy(3);                                /* parameters, whether there are more, stack */
    copy(copy_number() * sizeof(unsigned)); /* instructions */
    for (size_t n = copy_number(); n > 0; n--)
        copy_constant();
    copy(copy_number() * 3); /* upvalues */
    for (size_t n = copy_number(); n > 0; n--)
        copy_function();
    copy(copy_number()); /* lines */
    for (size_t n = copy_number(); n > 0; n--)
        copy_number(), copy_number();
    for (size_t n = read_number(); n > 0;
         n--) { /* variables: name, where it begins, where it ends */
        skip_string();
        read_number(), read_number();
    }
    for (size_t n = read_number(); n > 0; n--) /* names of upvalues */
        skip_string();
    fputc(0x80, out);
    fputc(0x80, out); /* 0 of either */
}

/* The header of a chunk: signature, version, format, LUAC_DATA, three sizes, an integer, a number;
 * and how many upvalues its function has. */
enum { HEADER = 4 + 1 + 1 + 6 + 3 + 8 + 8 + 1 };

/* Writes a chunk as lua_dump() made it. */
static bool write_without_names(const char *path, const char *chunk)
{
    next = (const unsigned char *)chunk;
    out = fopen(path, "wb");
    if (!out)
        return false;
    copy(HEADER);
    copy_function();
    bool failed = ferror(out) != 0;
    return fclose(out) == 0 && !failed;
}

/* ---- the whole ---- */

static int add_piece(lua_State *L, const void *piece, size_t size, void *to)
{
    (void)L;
    return fwrite(piece, 1, size, to) != size;
}

/* The whole file; NULL when it cannot be read. */
static char *read_file(const char *path, size_t *size)
{
    FILE *in = fopen(path, "rb");
    long length = in && fseek(in, 0, SEEK_END) == 0 ? ftell(in) : -1;
    char *bytes = length >= 0 ? malloc((size_t)length + 1) : NULL;
    if (bytes) {
        rewind(in);
        *size = fread(bytes, 1, (size_t)length, in);
    }
    if (in)
        fclose(in);
    return bytes;
}

/* Raises, or leaves the chunk on the stack. */
static void compile(lua_State *L, const char *path, const char *name)
{
    size_t size = 0;
    char *source = read_file(path, &size);
    if (!source)
        luaL_error(L, "cannot read %s", path);
    lua_pushfstring(L, "@minikvm/%s.lua", luaL_gsub(L, name, ".", "/"));
    int rc = luaL_loadbufferx(L, source, size, lua_tostring(L, -1), "t");
    free(source);
    if (rc != LUA_OK)
        lua_error(L);
}

static int run(lua_State *L)
{
    bool strip = lua_gettop(L) > 3;
    const char *path = luaL_checkstring(L, 3);
    compile(L, luaL_checkstring(L, 1), luaL_checkstring(L, 2));
    char *chunk = NULL;
    size_t size;
    FILE *dump = open_memstream(&chunk, &size);
    bool failed = !dump || lua_dump(L, add_piece, dump, strip) != 0;
    failed = (dump && fclose(dump) != 0) || failed || !write_without_names(path, chunk);
    free(chunk);
    return failed ? luaL_error(L, "cannot write %s", path) : 0;
}

int main(int argc, char **argv)
{
    lua_State *L = luaL_newstate();
    if (!L || argc < 4)
        return 2;
    lua_pushcfunction(L, run);
    for (int i = 1; i < argc; i++)
        lua_pushstring(L, argv[i]);
    int rc = lua_pcall(L, argc - 1, 0, 0);
    if (rc != LUA_OK)
        fprintf(stderr, "bytecode: %s\n", lua_tostring(L, -1));
    lua_close(L);
    return rc != LUA_OK;
}
