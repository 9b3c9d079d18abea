/* files.c - file policies as objects, and vm.files: what a VM did with its files. The tables
 * are checked in Lua (lua/minikvm/vm/files.lua). */
#include "lua/core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- decide --- */

struct question {
    struct mk_lua_vm *v;
    const char *name, *mode;
    enum mk_verdict verdict; /* the rule's, then what was decided */
};

static const char *mode_of(unsigned flags)
{
    bool writes = flags & (MK_FILE_WRITE | MK_FILE_TRUNC);
    return !writes ? "r" : flags & MK_FILE_READ ? "rw" : "w";
}

static int call_decide(lua_State *co)
{
    struct question *q = lua_touserdata(co, 1);
    mk_lua_push_handler(q->v, co, q->v->decide_ref);
    lua_pushstring(co, q->name);
    lua_pushstring(co, q->mode);
    lua_call(co, 2, 1);
    if (!lua_isnil(co, -1))
        q->verdict = (enum mk_verdict)mk_verdict_of(luaL_checkstring(co, -1));
    return 0;
}

/* For files:open(), whose error it is when that fails: left on its stack. */
static bool decide_in_script(struct question *q)
{
    lua_State *L = q->v->opener;
    lua_pushcfunction(L, call_decide);
    lua_pushlightuserdata(L, q);
    return lua_pcall(L, 1, 0, 0) == LUA_OK;
}

/* For a guest's OPEN: on the vCPU's thread. */
static bool decide_in_handler(struct question *q, unsigned cpu)
{
    return !mk_lua_failed(q->v, cpu) &&
           mk_lua_call(q->v, cpu, "the decide function", call_decide, q) == MK_CALL_DONE;
}

/* Core side: `caller` is the guest's vCPU, NULL in files:open(). What goes wrong denies. */
static enum mk_verdict decide(void *ctx, void *caller, const char *name, unsigned flags,
                              enum mk_verdict rule)
{
    struct mk_lua_vm *v = ctx;
    struct question q = { v, name, mode_of(flags), rule };
    const struct mk_cpu *cpu = caller;
    bool decided = cpu ? decide_in_handler(&q, cpu->index) : decide_in_script(&q);
    return decided ? q.verdict : MK_FILE_DENY;
}

void mk_lua_connect_files(lua_State *L, struct mk_lua_vm *v, int vm_index, int options)
{
    lua_getfield(L, options, "files");
    if (luaL_testudata(L, -1, MK_FILES) && lua_getiuservalue(L, -1, 1) == LUA_TFUNCTION) {
        v->decide_ref = mk_lua_ref(L, vm_index, -1);
        v->vm.fsbox.decide = decide;
        v->vm.fsbox.ctx = v;
    }
    lua_settop(L, vm_index);
}

struct mk_policy *mk_files_field(lua_State *L, int options)
{
    lua_getfield(L, options, "files");
    struct mk_policy **policy = luaL_testudata(L, -1, MK_FILES);
    if (!lua_isnil(L, -1) && (!policy || !*policy))
        mk_lua_error(L,
                     "kvm.vm: option 'files': expected a file policy that is open, as kvm.files{} "
                     "makes it");
    lua_pop(L, 1);
    return policy ? *policy : NULL;
}

/* --- policies --- */

static void set_limits(lua_State *L, struct mk_file_limits *limits)
{
    limits->open = (unsigned)mk_integer_field(L, 1, "max_open", limits->open);
    limits->bytes = (uint64_t)mk_integer_field(L, 1, "max_bytes", (lua_Integer)limits->bytes);
    limits->file = (uint64_t)mk_integer_field(L, 1, "max_file", (lua_Integer)limits->file);
    limits->files = (uint64_t)mk_integer_field(L, 1, "max_files", (lua_Integer)limits->files);
}

static int add_rules(lua_State *L, struct mk_policy *p, struct mk_err *err)
{
    int rc = 0;
    lua_getfield(L, 1, "rules");
    lua_Integer count = lua_isnil(L, -1) ? 0 : luaL_len(L, -1);
    for (lua_Integer i = 1; rc == 0 && i <= count; i++) {
        lua_rawgeti(L, -1, i);
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        rc = mk_policy_add(p, lua_tostring(L, -2),
                           (enum mk_verdict)mk_verdict_of(lua_tostring(L, -1)), err);
        lua_pop(L, 3);
    }
    lua_pop(L, 1);
    return rc;
}

/* new_files(options) -> policy | nil, text, name */
static int new_files(lua_State *L)
{
    struct mk_err err = { 0 };
    void **owner = mk_push_owner(L, MK_FILES);
    struct mk_policy *policy = *owner = mk_policy_new(mk_string_field(L, 1, "root", NULL),
                                                      mk_string_field(L, 1, "private", NULL), &err);
    if (!policy)
        return mk_push_err(L, &err);
    set_limits(L, &policy->limits);
    policy->audit = mk_true_field(L, 1, "audit");
    if (add_rules(L, policy, &err) < 0)
        return mk_push_err(L, &err);
    lua_getfield(L, 1, "decide");
    lua_setiuservalue(L, -2, 1);
    return 1;
}

/* policy:close(): VMs that have it keep it; new ones cannot have it. */
MK_RELEASE(files_close, MK_FILES, mk_policy_unref)

static int files_tostring(lua_State *L)
{
    struct mk_policy **policy = luaL_checkudata(L, 1, MK_FILES);
    lua_pushfstring(L, MK_FILES "%s", *policy ? "" : " (closed)");
    return 1;
}

/* --- vm.files --- */

static struct mk_fsbox *check_box(lua_State *L)
{
    return &mk_check_child(L, 1, MK_VM_FILES)->vm.fsbox;
}

static void push_entry(lua_State *L, const struct mk_file_entry *e)
{
    lua_createtable(L, 0, 6);
    mk_set_string(L, "op", e->op);
    lua_pushlstring(L, e->name, e->name_length);
    lua_setfield(L, -2, "name");
    mk_set_string(L, "verdict", e->verdict);
    mk_set_integer(L, "bytes", e->bytes);
    mk_set_integer(L, "times", e->times);
    if (e->error)
        mk_set_string(L, "error", mk_err_name(e->error));
}

/* files:audit() -> list of { op=, name=, verdict=, bytes=, times=, error= }, the oldest first, and
 * how many entries there were before those */
static int files_audit(lua_State *L)
{
    struct mk_fsbox *box = check_box(L);
    struct mk_file_entry e;
    if (!box->audit)
        return mk_lua_error(L, "audit: the file policy was made without audit = true");
    lua_newtable(L);
    for (uint64_t i = 0; mk_fsbox_log_entry(box, i, &e); i++) {
        push_entry(L, &e);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    pthread_mutex_lock(&box->lock);
    uint64_t made = box->audited;
    pthread_mutex_unlock(&box->lock);
    lua_pushinteger(L, made > MK_FILE_AUDIT ? (lua_Integer)(made - MK_FILE_AUDIT) : 0);
    return 2;
}

/* files:directory() -> path of the private directory, or nil while the VM has made no file */
static int files_directory(lua_State *L)
{
    char *path = mk_fsbox_directory(check_box(L));
    lua_pushstring(L, path);
    free(path);
    return 1;
}

/* files:usage() -> { open=, bytes=, files= } as the quotas count */
static int files_usage(lua_State *L)
{
    struct mk_fsbox *box = check_box(L);
    unsigned open = 0;
    pthread_mutex_lock(&box->lock);
    for (unsigned i = 0; i < MK_FILES_OPEN; i++)
        open += box->slot[i].node != NULL;
    uint64_t bytes = box->bytes, files = box->files;
    pthread_mutex_unlock(&box->lock);
    lua_createtable(L, 0, 3);
    mk_set_integer(L, "open", open);
    mk_set_integer(L, "bytes", bytes);
    mk_set_integer(L, "files", files);
    return 1;
}

/* --- the file service, for protocols of the script's own --- */

#define MOST_READ (16 << 20) /* bytes of one files:read() */

/* An i64 result of the box: what it is, or nil, "what: why", name. */
static int push_done(lua_State *L, int64_t rc, const char *what)
{
    struct mk_err err;
    if (rc >= 0) {
        lua_pushinteger(L, rc);
        return 1;
    }
    mk_fail_errno(&err, (int)-rc, "files:%s", what);
    return mk_push_err(L, &err);
}

/* A descriptor of the VM's; -1, which is none, for a number that cannot be one. */
static int32_t check_fd(lua_State *L, int index)
{
    lua_Integer fd = luaL_checkinteger(L, index);
    return fd < 0 || fd > INT32_MAX ? -1 : (int32_t)fd;
}

/* files_open(files, name, flags of the file port) -> descriptor */
static int files_open(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_VM_FILES);
    size_t length;
    const char *name = luaL_checklstring(L, 2, &length);
    unsigned flags = (unsigned)luaL_checkinteger(L, 3);
    lua_State *outer = v->opener;
    lua_settop(L, 3);
    v->opener = L;
    int64_t rc = mk_fsbox_open(&v->vm.fsbox, NULL, name, length, flags);
    v->opener = outer;
    return lua_gettop(L) > 3 ? lua_error(L) : push_done(L, rc, "open");
}

/* files:read(descriptor, count) -> bytes, "" at the end of the file */
static int files_read(lua_State *L)
{
    struct mk_fsbox *box = check_box(L);
    int32_t fd = check_fd(L, 2);
    lua_Integer count = luaL_checkinteger(L, 3);
    luaL_Buffer b;
    luaL_argcheck(L, count >= 0 && count <= MOST_READ, 3, "a count is 0 to 16 MiB");
    int64_t rc = mk_fsbox_read(box, fd, luaL_buffinitsize(L, &b, (size_t)count), (size_t)count);
    luaL_pushresultsize(&b, rc > 0 ? (size_t)rc : 0);
    return rc < 0 ? push_done(L, rc, "read") : 1;
}

/* files:write(descriptor, bytes) -> how many were written, which may be fewer */
static int files_write(lua_State *L)
{
    struct mk_fsbox *box = check_box(L);
    size_t length;
    const char *bytes = luaL_checklstring(L, 3, &length);
    return push_done(L, mk_fsbox_write(box, check_fd(L, 2), bytes, length), "write");
}

/* files:seek(descriptor [, whence [, offset]]) -> the new position */
static int files_seek(lua_State *L)
{
    static const char *const names[] = { "set", "cur", "end", NULL }; /* 0, 1, 2 as on the port */
    struct mk_fsbox *box = check_box(L);
    int32_t fd = check_fd(L, 2);
    unsigned whence = (unsigned)luaL_checkoption(L, 3, "cur", names);
    return push_done(L, mk_fsbox_seek(box, fd, luaL_optinteger(L, 4, 0), whence, INT64_MAX),
                     "seek");
}

/* files:size(descriptor) -> bytes */
static int files_size(lua_State *L)
{
    return push_done(L, mk_fsbox_size(check_box(L), check_fd(L, 2)), "size");
}

/* files:close(descriptor) -> 0 */
static int files_close_one(lua_State *L)
{
    return push_done(L, mk_fsbox_close(check_box(L), check_fd(L, 2)), "close");
}

static const luaL_Reg meta[] = {
    { "__gc", files_close }, { "__close", files_close }, { "__tostring", files_tostring }, MK_END
};
static const luaL_Reg methods[] = { { "close", files_close }, MK_END };
static const luaL_Reg vm_methods[] = {
    { "audit", files_audit }, { "directory", files_directory }, { "usage", files_usage },
    { "read", files_read },   { "write", files_write },         { "seek", files_seek },
    { "size", files_size },   { "close", files_close_one },     MK_END
};
static const luaL_Reg core[] = { MK_FN(new_files), MK_FN(files_open), MK_END };

MK_EXPORTS = { { .type = MK_FILES, .meta = meta, .methods = methods },
               { .type = MK_VM_FILES, .methods = vm_methods, .core = core } };
