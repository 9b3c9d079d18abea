/* view.c - a guest's screen for browsers (io/view.h), for lua/minikvm/view: it asks the VM for
 * attention while somebody watches, and types at its keyboard. Used by the thread that runs Lua. */
#include "lua/core.h"

#include "io/view.h"

struct mk_lua_view {
    struct mk_view *view; /* NULL: closed */
    struct mk_lua_vm *v;  /* NULL: not started */
    struct mk_lua_view *next;
};

/* --- on the I/O thread --- */

static void look(void *ctx)
{
    mk_vm_attend(&((struct mk_lua_view *)ctx)->v->vm);
}

/* What finds no room is lost, as at a keyboard. */
static void keys(void *ctx, const uint8_t *scancodes, size_t count)
{
    struct mk_vm *vm = &((struct mk_lua_view *)ctx)->v->vm;
    if (vm->has_pic)
        mk_i8042_key(&vm->keyboard, scancodes, count);
}

/* --- life --- */

static void close_view(struct mk_lua_view *w)
{
    struct mk_lua_view **at = w->v ? &w->v->views : NULL;
    while (at && *at && *at != w)
        at = &(*at)->next;
    if (at && *at)
        *at = w->next;
    if (w->view)
        mk_view_close(w->view);
    w->view = NULL;
    w->v = NULL;
}

void mk_lua_close_views(struct mk_lua_vm *v)
{
    while (v->views)
        close_view(v->views);
}

static struct mk_lua_view *check_view(lua_State *L)
{
    return luaL_checkudata(L, 1, MK_VIEW);
}

static int view_close(lua_State *L)
{
    close_view(check_view(L));
    return 0;
}

/* view_open(port) -> view, port, token | nil, text, name */
static int view_open(lua_State *L)
{
    lua_Integer port = luaL_checkinteger(L, 1);
    struct mk_err err;
    luaL_argcheck(L, port >= 0 && port <= 65535, 1, "no port");
    struct mk_lua_view *w = lua_newuserdatauv(L, sizeof(*w), 0);
    *w = (struct mk_lua_view){ 0 };
    luaL_setmetatable(L, MK_VIEW);
    w->view = mk_view_open((unsigned)port, &err);
    if (!w->view)
        return mk_push_err(L, &err);
    lua_pushinteger(L, mk_view_port(w->view));
    lua_pushstring(L, mk_view_token(w->view));
    return 3;
}

/* view_start(view, vm, page): serves it until the VM is closed. */
static int view_start(lua_State *L)
{
    static const struct mk_view_ops ops = { look, keys };
    struct mk_lua_view *w = check_view(L);
    struct mk_lua_vm *v = mk_check_vm(L, 2);
    size_t length;
    const char *page = luaL_checklstring(L, 3, &length);
    luaL_argcheck(L, w->view && !w->v, 1, "it is closed, or has a VM");
    w->v = v;
    w->next = v->views;
    v->views = w;
    if (!mk_view_start(w->view, page, length, &ops, w))
        return luaL_error(L, "not enough memory");
    return 0;
}

/* --- pictures --- */

/* view_publish(view, picture) */
static int view_publish(lua_State *L)
{
    struct mk_lua_view *w = check_view(L);
    size_t length;
    const char *picture = luaL_checklstring(L, 2, &length);
    if (w->view && !mk_view_publish(w->view, picture, length))
        return luaL_error(L, "not enough memory");
    return 0;
}

/* view_viewers(view) -> how many watch; nil: it is closed */
static int view_viewers(lua_State *L)
{
    struct mk_lua_view *w = check_view(L);
    if (!w->view)
        return 0;
    lua_pushinteger(L, mk_view_viewers(w->view));
    return 1;
}

static const luaL_Reg meta[] = { { "__gc", view_close }, MK_END };
static const luaL_Reg core[] = { MK_FN(view_open),    MK_FN(view_start),   MK_FN(view_close),
                                 MK_FN(view_publish), MK_FN(view_viewers), MK_END };

const struct mk_exports mk_view_exports[] = { { .type = MK_VIEW, .meta = meta, .core = core },
                                              MK_END };
