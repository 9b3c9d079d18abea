/* keyboard.c - vm.keyboard: scancodes for the guest's i8042, which
 * lua/minikvm/console/keyboard.lua makes. Needs irqchip = "pic". */
#include "lua/core.h"

static struct mk_i8042 *check_keyboard(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_KEYBOARD);
    if (!v->vm.has_pic)
        mk_lua_error(L, "vm \"%s\" has no keyboard: create it with irqchip = \"pic\"", v->vm.name);
    return &v->vm.keyboard;
}

/* scancodes(keyboard, bytes) -> whether there was room for all of them, of set 1; else none waits
 */
static int scancodes(lua_State *L)
{
    struct mk_i8042 *keyboard = check_keyboard(L);
    size_t length;
    const char *bytes = luaL_checklstring(L, 2, &length);
    mk_lua_flush_output();
    lua_pushboolean(L, mk_i8042_key(keyboard, (const uint8_t *)bytes, length));
    return 1;
}

/* keyboard_state(keyboard) -> bytes that there is room for, LEDs */
static int keyboard_state(lua_State *L)
{
    uint8_t leds;
    lua_pushinteger(L, MK_I8042_KEYS - (lua_Integer)mk_i8042_queued(check_keyboard(L), &leds));
    lua_pushinteger(L, leds);
    return 2;
}

static const luaL_Reg core[] = { MK_FN(scancodes), MK_FN(keyboard_state), MK_END };

MK_EXPORTS = { { .type = MK_KEYBOARD, .core = core } };
