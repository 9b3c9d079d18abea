/* bytecode.c - compiles a part written in Lua for the program that holds it, with the same Lua.
 *   bytecode FILE NAME OUT [STRIP]      the chunk is called minikvm/NAME.lua
 * Run by the Makefile. Lines and names stay in, for messages, unless there is a fourth argument. */
#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static int write_piece(lua_State *L, const void *piece, size_t size, void *out)
{
    (void)L;
    return fwrite(piece, 1, size, out) != size;
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
    lua_pushfstring(L, "@minikvm/%s.lua", name);
    int rc = luaL_loadbufferx(L, source, size, lua_tostring(L, -1), "t");
    free(source);
    if (rc != LUA_OK)
        lua_error(L);
}

static int run(lua_State *L)
{
    bool strip = lua_gettop(L) > 3;
    compile(L, luaL_checkstring(L, 1), luaL_checkstring(L, 2));
    const char *path = luaL_checkstring(L, 3);
    FILE *out = fopen(path, "wb");
    bool failed = !out || lua_dump(L, write_piece, out, strip) != 0;
    if ((out && fclose(out) != 0) || failed)
        return luaL_error(L, "cannot write %s", path);
    return 0;
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
