/* rsp.c - bytes of gdb's remote serial protocol, which may be many: digits, and packets as they are
 * sent. For lua/minikvm/gdb. Debugging with GDB, appendix E.1: escapes ('}'), sums, run lengths
 * ('*'). */
#include "lua/core.h"

#include <string.h>

#define ESCAPE '}'
#define ESCAPED 0x20 /* an escaped byte is xored with it */
#define RUN '*'
#define RUN_BASE 29 /* a run's count is a character: so much above it */
#define LONGEST_RUN (126 - RUN_BASE)
#define SHORTEST_RUN 3 /* repetitions of a byte that is there already */

/* --- digits --- */

static void to_hex(char *to, const uint8_t *bytes, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < length; i++) {
        to[2 * i] = digits[bytes[i] >> 4];
        to[2 * i + 1] = digits[bytes[i] & 0xf];
    }
}

static int digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* hex(bytes) -> digits, two for each */
static int hex(lua_State *L)
{
    size_t length;
    const char *bytes = luaL_checklstring(L, 1, &length);
    luaL_Buffer b;
    to_hex(luaL_buffinitsize(L, &b, 2 * length), (const uint8_t *)bytes, length);
    luaL_pushresultsize(&b, 2 * length);
    return 1;
}

/* unhex(digits) -> bytes | nil: they are none, or an odd number */
static int unhex(lua_State *L)
{
    size_t length;
    const char *digits = luaL_checklstring(L, 1, &length);
    luaL_Buffer b;
    char *to = luaL_buffinitsize(L, &b, length / 2 + 1);
    for (size_t i = 0; i < length; i += 2) {
        int high = digit((uint8_t)digits[i]), low = digit((uint8_t)digits[i + 1]); /* or the NUL */
        if (high < 0 || low < 0)
            return 0;
        to[i / 2] = (char)(high << 4 | low);
    }
    luaL_pushresultsize(&b, length / 2);
    return 1;
}

/* --- packets --- */

static uint8_t sum_of(const uint8_t *bytes, size_t length)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return sum;
}

/* rsp_sum(bytes) -> 0 to 255 */
static int rsp_sum(lua_State *L)
{
    size_t length;
    const char *bytes = luaL_checklstring(L, 1, &length);
    lua_pushinteger(L, sum_of((const uint8_t *)bytes, length));
    return 1;
}

/* How often the first byte is repeated, where that is worth a run; a count that would be '#' or '$'
 * is not to be sent. */
static size_t run_length(const uint8_t *data, size_t left)
{
    size_t n = 0;
    while (n + 1 < left && n < LONGEST_RUN && data[n + 1] == data[0])
        n++;
    if (n + RUN_BASE == '#' || n + RUN_BASE == '$')
        n = '#' - RUN_BASE - 1;
    return n >= SHORTEST_RUN ? n : 0;
}

/* rsp_encode(data) -> "$data#sum" with escapes and run lengths */
static int rsp_encode(lua_State *L)
{
    size_t length;
    const uint8_t *data = (const uint8_t *)luaL_checklstring(L, 1, &length);
    luaL_Buffer b;
    uint8_t *begin = (uint8_t *)luaL_buffinitsize(L, &b, 2 * length + 4), *to = begin;
    *to++ = '$';
    for (size_t i = 0, run; i < length; i += run + 1) {
        bool special = data[i] == '$' || data[i] == '#' || data[i] == ESCAPE || data[i] == RUN;
        run = special ? 0 : run_length(data + i, length - i);
        if (special)
            *to++ = ESCAPE;
        *to++ = special ? data[i] ^ ESCAPED : data[i];
        if (run) {
            *to++ = RUN;
            *to++ = (uint8_t)(run + RUN_BASE);
        }
    }
    uint8_t sum = sum_of(begin + 1, (size_t)(to - begin) - 1);
    *to++ = '#';
    to_hex((char *)to, &sum, 1);
    luaL_pushresultsize(&b, (size_t)(to + 2 - begin));
    return 1;
}

static const luaL_Reg core[] = { MK_FN(hex), MK_FN(unhex), MK_FN(rsp_sum), MK_FN(rsp_encode),
                                 MK_END };

MK_EXPORTS = { { .core = core } };
