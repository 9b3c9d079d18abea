/* keyboard.c - vm.keyboard: typing at the guest's i8042. Needs irqchip = "pic". */
#include "lua/core.h"

static struct mk_i8042 *check_keyboard(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_KEYBOARD);
    if (!v->vm.has_pic)
        luaL_error(L, "vm \"%s\" has no keyboard: create it with irqchip = \"pic\"", v->vm.name);
    return &v->vm.keyboard;
}

/* keyboard:type(text) -> keyboard | nil, why, "ENOBUFS" or "EINVAL", characters typed */
static int keyboard_type(lua_State *L)
{
    struct mk_i8042 *keyboard = check_keyboard(L);
    size_t length, typed = 0;
    const char *text = luaL_checklstring(L, 2, &length);
    struct mk_err err;
    if (mk_keyboard_type(keyboard, text, length, &typed, &err) < 0) {
        mk_push_err(L, &err);
        lua_pushinteger(L, (lua_Integer)typed);
        return 4;
    }
    lua_settop(L, 1);
    return 1;
}

/* keyboard:press(name, ...) -> keyboard: pressed in order, released in reverse. An unknown name
 * raises. */
static int keyboard_press(lua_State *L)
{
    struct mk_i8042 *keyboard = check_keyboard(L);
    const char *names[MK_KEYBOARD_CHORD];
    int count = lua_gettop(L) - 1;
    luaL_argcheck(L, count >= 1 && count <= MK_KEYBOARD_CHORD, 2, "1 to 16 key names");
    for (int i = 0; i < count; i++)
        names[i] = luaL_checkstring(L, 2 + i);
    struct mk_err err;
    if (mk_keyboard_press(keyboard, names, (size_t)count, &err) < 0)
        return luaL_error(L, "keyboard:press: %s", err.text);
    lua_settop(L, 1);
    return 1;
}

/* vm_of_keyboard(keyboard) -> vm */
static int vm_of_keyboard(lua_State *L)
{
    check_keyboard(L);
    lua_getiuservalue(L, 1, 1);
    return 1;
}

void mk_open_keyboard(lua_State *L)
{
    static const luaL_Reg methods[] = { { "type", keyboard_type }, { "press", keyboard_press },
                                        { NULL, NULL } };
    mk_new_type(L, MK_KEYBOARD, NULL, methods);
    lua_pushcfunction(L, vm_of_keyboard);
    lua_setfield(L, -2, "vm_of_keyboard"); /* into the core table on top */
}
