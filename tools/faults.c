/* faults.c - faults, made on purpose: a library that stands before the C library (LD_PRELOAD) and
 * lets the Nth call of one kind fail that the program itself makes. What other libraries call
 * passes untouched, and so does all where nobody asked for a fault.
 *
 * A process is told by its environment, MINIKVM_FAULT=KIND:N[:TIMES], or by the functions that
 * package.loadlib(path, "luaopen_faults") finds here: arm, disarm, try, kinds, leaks. TIMES calls
 * from the Nth on fail (1); 0: all from there on. Calls are counted for the process as a whole.
 * With MINIKVM_FAULT_LOG, a process appends what came of it to that file when it ends. With
 * MINIKVM_FAULT_SHOW, a sanitizer prints the stack of each fault.
 *
 * The kind "lua" is what the Lua state that calls try() allocates: there the request that failed
 * fails again, when Lua has collected its garbage. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <link.h>
#include <lua.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { NONE, MEMORY, LUA, IOCTL, MMAP, THREAD, DESCRIPTOR, TIMER, WRITE, READ, NAME, PROCESS };

static const struct {
    const char *name;
    enum kind kind;
    int code;   /* errno */
    bool brief; /* half of the bytes instead */
} kinds[] = {
    { "memory", MEMORY, ENOMEM, false },
    { "lua", LUA, ENOMEM, false },
    { "ioctl", IOCTL, ENOMEM, false },
    { "ioctl-eintr", IOCTL, EINTR, false },
    { "mmap", MMAP, ENOMEM, false },
    { "thread", THREAD, EAGAIN, false },
    { "descriptor", DESCRIPTOR, EMFILE, false },
    { "timer", TIMER, ENOMEM, false },
    { "write-enospc", WRITE, ENOSPC, false },
    { "write-eio", WRITE, EIO, false },
    { "write-eintr", WRITE, EINTR, false },
    { "write-short", WRITE, 0, true },
    { "read-eio", READ, EIO, false },
    { "read-eintr", READ, EINTR, false },
    { "read-short", READ, 0, true },
    { "name", NAME, EIO, false },
    { "process", PROCESS, EAGAIN, false },
};

#define PATIENCE 20 /* seconds; then SIGALRM ends the process */
#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static _Atomic int armed = -1; /* index of the kind */
static _Atomic long calls, injected, first, times;
static int log_fd = -1;
static void (*show)(void);        /* the sanitizer prints the stack */
static _Thread_local bool aside;  /* in Lua's allocator */
static char *text_from, *text_to; /* the program's code */

static bool due(void)
{
    long n = atomic_fetch_add(&calls, 1) + 1;
    if (n < first || (times && n >= first + times))
        return false;
    injected++;
    if (show)
        show();
    return true;
}

/* Does the call of this kind that returns to `caller` fail? errno is set then. */
static bool fails(enum kind kind, const void *caller)
{
    int i = armed;
    if (i < 0 || kinds[i].kind != kind || aside || (const char *)caller < text_from ||
        (const char *)caller >= text_to || !due())
        return false;
    errno = kinds[i].code;
    return true;
}

static bool halves(void)
{
    int i = armed;
    return i >= 0 && kinds[i].brief;
}

/* --- the calls --- */

#define REAL(name)                                                                                 \
    static __typeof__(name) *real;                                                                 \
    if (!real)                                                                                     \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* A function whose arguments are passed on as they are. */
#define STAND_BEFORE(kind, failure, type, name, parameters, arguments)                             \
    __attribute__((visibility("default"))) type name parameters                                    \
    {                                                                                              \
        REAL(name);                                                                                \
        if (fails(kind, __builtin_return_address(0)))                                              \
            return failure;                                                                        \
        return real arguments;                                                                     \
    }

STAND_BEFORE(MEMORY, NULL, void *, malloc, (size_t size), (size))
STAND_BEFORE(MEMORY, NULL, void *, calloc, (size_t count, size_t size), (count, size))
STAND_BEFORE(MEMORY, NULL, void *, realloc, (void *block, size_t size), (block, size))
STAND_BEFORE(MEMORY, NULL, char *, strdup, (const char *text), (text))
STAND_BEFORE(MEMORY, NULL, char *, strndup, (const char *text, size_t size), (text, size))
STAND_BEFORE(MEMORY, NULL, FILE *, open_memstream, (char **text, size_t *size), (text, size))
STAND_BEFORE(MEMORY, ENOMEM, int, posix_memalign, (void **block, size_t to, size_t size),
             (block, to, size))
STAND_BEFORE(MEMORY, NULL, void *, aligned_alloc, (size_t to, size_t size), (to, size))

STAND_BEFORE(MMAP, MAP_FAILED, void *, mmap,
             (void *at, size_t size, int protection, int flags, int fd, off_t offset),
             (at, size, protection, flags, fd, offset))
STAND_BEFORE(MMAP, -1, int, madvise, (void *at, size_t size, int advice), (at, size, advice))

/* To be given rights to all of a large mapping takes no memory. */
__attribute__((visibility("default"))) int mprotect(void *at, size_t size, int protection)
{
    REAL(mprotect);
    bool may = !(protection & PROT_WRITE) || size < 1 << 16;
    return may && fails(MMAP, __builtin_return_address(0)) ? -1 : real(at, size, protection);
}

STAND_BEFORE(THREAD, EAGAIN, int, pthread_create,
             (pthread_t *restrict thread, const pthread_attr_t *restrict attr, void *(*fn)(void *),
              void *restrict arg),
             (thread, attr, fn, arg))

STAND_BEFORE(DESCRIPTOR, -1, int, eventfd, (unsigned start, int flags), (start, flags))
STAND_BEFORE(DESCRIPTOR, -1, int, pipe, (int fds[2]), (fds))
STAND_BEFORE(DESCRIPTOR, -1, int, pipe2, (int fds[2], int flags), (fds, flags))
STAND_BEFORE(DESCRIPTOR, -1, int, socket, (int family, int type, int protocol),
             (family, type, protocol))
STAND_BEFORE(DESCRIPTOR, -1, int, socketpair, (int family, int type, int protocol, int fds[2]),
             (family, type, protocol, fds))
STAND_BEFORE(DESCRIPTOR, -1, int, accept4,
             (int fd, struct sockaddr *restrict from, socklen_t *restrict size, int flags),
             (fd, from, size, flags))
STAND_BEFORE(DESCRIPTOR, -1, int, memfd_create, (const char *name, unsigned flags), (name, flags))
STAND_BEFORE(DESCRIPTOR, -1, int, epoll_create1, (int flags), (flags))
STAND_BEFORE(DESCRIPTOR, -1, int, epoll_ctl, (int fd, int op, int of, struct epoll_event *event),
             (fd, op, of, event))
STAND_BEFORE(DESCRIPTOR, -1, int, signalfd, (int fd, const sigset_t *mask, int flags),
             (fd, mask, flags))
STAND_BEFORE(DESCRIPTOR, -1, int, dup, (int fd), (fd))
STAND_BEFORE(DESCRIPTOR, -1, int, dup2, (int fd, int to), (fd, to))
STAND_BEFORE(DESCRIPTOR, -1, int, mkstemp64, (char *name), (name))
STAND_BEFORE(DESCRIPTOR, NULL, FILE *, fopen, (const char *path, const char *mode), (path, mode))
STAND_BEFORE(DESCRIPTOR, NULL, FILE *, fopen64, (const char *path, const char *mode), (path, mode))
STAND_BEFORE(DESCRIPTOR, NULL, FILE *, tmpfile64, (void), ())
STAND_BEFORE(DESCRIPTOR, NULL, DIR *, opendir, (const char *path), (path))
STAND_BEFORE(DESCRIPTOR, NULL, DIR *, fdopendir, (int fd), (fd))

/* timerfd_settime(2) with a time that is one does not fail. */
STAND_BEFORE(TIMER, -1, int, timerfd_create, (int clock, int flags), (clock, flags))
STAND_BEFORE(NAME, -1, int, rename, (const char *from, const char *to), (from, to))
STAND_BEFORE(NAME, -1, int, renameat2,
             (int from_dir, const char *from, int to_dir, const char *to, unsigned flags),
             (from_dir, from, to_dir, to, flags))
STAND_BEFORE(NAME, -1, int, linkat,
             (int from_dir, const char *from, int to_dir, const char *to, int flags),
             (from_dir, from, to_dir, to, flags))
STAND_BEFORE(NAME, -1, int, mkdir, (const char *path, mode_t mode), (path, mode))
STAND_BEFORE(NAME, -1, int, mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode))
STAND_BEFORE(NAME, NULL, char *, mkdtemp, (char *name), (name))
STAND_BEFORE(NAME, -1, int, ftruncate, (int fd, off_t size), (fd, size))
STAND_BEFORE(NAME, -1, int, fsync, (int fd), (fd))
STAND_BEFORE(NAME, -1, int, fchmod, (int fd, mode_t mode), (fd, mode))
STAND_BEFORE(NAME, -1, int, fstat, (int fd, struct stat *st), (fd, st))

STAND_BEFORE(PROCESS, -1, pid_t, fork, (void), ())
STAND_BEFORE(PROCESS, EAGAIN, int, posix_spawn,
             (pid_t * pid, const char *path, const posix_spawn_file_actions_t *files,
              const posix_spawnattr_t *how, char *const argv[], char *const env[]),
             (pid, path, files, how, argv, env))
STAND_BEFORE(MEMORY, ENOMEM, int, posix_spawn_file_actions_adddup2,
             (posix_spawn_file_actions_t * files, int fd, int to), (files, fd, to))
STAND_BEFORE(PROCESS, NULL, FILE *, popen, (const char *command, const char *mode), (command, mode))

/* --- calls with arguments of any number --- */

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...)
{
    REAL(ioctl);
    va_list ap;
    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    return fails(IOCTL, __builtin_return_address(0)) ? -1 : real(fd, request, arg);
}

/* The mode is there where a file may be made; elsewhere it is not looked at. */
#define OPEN(name, parameters, arguments)                                                          \
    __attribute__((visibility("default"))) int name parameters                                     \
    {                                                                                              \
        REAL(name);                                                                                \
        va_list ap;                                                                                \
        va_start(ap, flags);                                                                       \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;                      \
        va_end(ap);                                                                                \
        return fails(DESCRIPTOR, __builtin_return_address(0)) ? -1 : real arguments;               \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int dir, const char *path, int flags, ...), (dir, path, flags, mode))
OPEN(openat64, (int dir, const char *path, int flags, ...), (dir, path, flags, mode))

__attribute__((visibility("default"))) int fcntl(int fd, int command, ...)
{
    REAL(fcntl);
    va_list ap;
    va_start(ap, command);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    bool makes = command == F_DUPFD || command == F_DUPFD_CLOEXEC;
    return makes && fails(DESCRIPTOR, __builtin_return_address(0)) ? -1 : real(fd, command, arg);
}

__attribute__((visibility("default"))) long syscall(long number, ...)
{
    REAL(syscall);
    va_list ap;
    long a[6];
    va_start(ap, number);
    for (size_t i = 0; i < COUNT(a); i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    bool makes = number == SYS_openat2 || number == SYS_pidfd_open;
    if (makes && fails(DESCRIPTOR, __builtin_return_address(0)))
        return -1;
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

__attribute__((visibility("default"))) int asprintf(char **text, const char *format, ...)
{
    if (fails(MEMORY, __builtin_return_address(0)))
        return -1;
    va_list ap;
    va_start(ap, format);
    int length = vasprintf(text, format, ap);
    va_end(ap);
    return length;
}

/* --- reading and writing --- */

/* A counter's or timer's descriptor does not fail so. */
static bool may_fail_here(int fd)
{
    struct stat st;
    int i = armed;
    return i < 0 || kinds[i].code == EINTR ||
           (syscall(SYS_fstat, fd, &st) == 0 && (st.st_mode & S_IFMT) != 0);
}

/* Calls that move up to `size` bytes: one that is cut short moves half of them, but one. */
#define MOVE(kind, type, name, parameters, arguments)                                              \
    __attribute__((visibility("default"))) type name parameters                                    \
    {                                                                                              \
        REAL(name);                                                                                \
        if (may_fail_here(fd) && fails(kind, __builtin_return_address(0))) {                       \
            if (!halves())                                                                         \
                return -1;                                                                         \
            size = size > 1 ? size / 2 : size;                                                     \
        }                                                                                          \
        return real arguments;                                                                     \
    }

MOVE(WRITE, ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
MOVE(WRITE, ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at),
     (fd, data, size, at))
MOVE(WRITE, ssize_t, pwrite64, (int fd, const void *data, size_t size, off_t at),
     (fd, data, size, at))
MOVE(WRITE, ssize_t, send, (int fd, const void *data, size_t size, int flags),
     (fd, data, size, flags))
MOVE(READ, ssize_t, read, (int fd, void *data, size_t size), (fd, data, size))
MOVE(READ, ssize_t, pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
MOVE(READ, ssize_t, pread64, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
MOVE(READ, ssize_t, recv, (int fd, void *data, size_t size, int flags), (fd, data, size, flags))

__attribute__((visibility("default"))) ssize_t pwritev2(int fd, const struct iovec *parts,
                                                        int count, off_t at, int flags)
{
    REAL(pwritev2);
    struct iovec half = parts[0];
    if (fails(WRITE, __builtin_return_address(0))) {
        if (!halves())
            return -1;
        half.iov_len = half.iov_len > 1 ? half.iov_len / 2 : half.iov_len;
        return real(fd, &half, 1, at, flags);
    }
    return real(fd, parts, count, at, flags);
}

#define SEEN 0x20 /* _IO_ERR_SEEN of glibc's FILE: ferror(3) tells */

/* Of a stream: what is lost stays lost, and it says so. */
#define STREAM_FAILS(file)                                                                         \
    (!halves() && fails(WRITE, __builtin_return_address(0)) && ((file)->_flags |= SEEN))

__attribute__((visibility("default"))) size_t fwrite(const void *data, size_t size, size_t count,
                                                     FILE *file)
{
    REAL(fwrite);
    return STREAM_FAILS(file) ? 0 : real(data, size, count, file);
}

__attribute__((visibility("default"))) int fflush(FILE *file)
{
    REAL(fflush);
    return file && STREAM_FAILS(file) ? EOF : real(file);
}

__attribute__((visibility("default"))) int fclose(FILE *file)
{
    REAL(fclose);
    bool lost = STREAM_FAILS(file);
    int code = errno, rc = real(file);
    if (lost)
        errno = code;
    return lost ? EOF : rc;
}

/* --- who asks for one --- */

static int kind_index(const char *name, size_t length)
{
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (strlen(kinds[i].name) == length && memcmp(kinds[i].name, name, length) == 0)
            return (int)i;
    return -1;
}

static void arm(int kind, long nth, long how_often)
{
    calls = injected = 0;
    first = nth;
    times = how_often;
    armed = kind;
}

static int find_code(struct dl_phdr_info *info, size_t size, void *ctx)
{
    (void)size, (void)ctx;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_flags & PF_X) {
            text_from = (char *)info->dlpi_addr + info->dlpi_phdr[i].p_vaddr; // NOLINT
            text_to = text_from + info->dlpi_phdr[i].p_memsz;
        }
    return 1; /* the program is the first */
}

__attribute__((constructor)) static void begin(void)
{
    const char *fault = getenv("MINIKVM_FAULT");
    if (getenv("MINIKVM_FAULT_SHOW"))
        show = (void (*)(void))dlsym(RTLD_DEFAULT, "__sanitizer_print_stack_trace");
    dl_iterate_phdr(find_code, NULL);
    if (!fault)
        return;
    if (getenv("MINIKVM_FAULT_LOG"))
        log_fd = open(getenv("MINIKVM_FAULT_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    size_t length = strcspn(fault, ":");
    char *end = NULL;
    long nth = fault[length] ? strtol(fault + length + 1, &end, 10) : 1;
    long how_often = end && *end ? strtol(end + 1, NULL, 10) : 1;
    arm(kind_index(fault, length), nth, how_often);
}

/* The file was opened at the beginning: a jail opens none. */
__attribute__((destructor)) static void end(void)
{
    char text[120];
    if (log_fd < 0 || armed < 0)
        return;
    int length = snprintf(text, sizeof(text), "%s %ld %ld %ld\n", kinds[armed].name, (long)first,
                          (long)calls, (long)injected);
    armed = -1;
    if (write(log_fd, text, (size_t)length) != length)
        abort();
}

/* --- for Lua --- */

struct below {
    lua_Alloc fn;
    void *ud;
    size_t refused; /* Lua asks once more */
};

static void *allocate(void *ud, void *block, size_t old_size, size_t new_size)
{
    struct below *below = ud;
    size_t had = block ? old_size : 0;
    int i = armed;
    if (i >= 0 && kinds[i].kind == LUA && new_size > had) {
        bool again = below->refused == new_size;
        below->refused = 0;
        if (again)
            return NULL;
        if (due()) {
            below->refused = new_size;
            return NULL;
        }
    }
    bool was = aside;
    aside = true;
    void *now = below->fn(below->ud, block, old_size, new_size);
    aside = was;
    return now;
}

static int check_kind(lua_State *L, int index)
{
    size_t length;
    const char *name = luaL_checklstring(L, index, &length);
    int kind = kind_index(name, length);
    luaL_argcheck(L, kind >= 0, index, "no such kind of fault");
    return kind;
}

/* arm(kind, n, times) */
static int lua_arm(lua_State *L)
{
    arm(check_kind(L, 1), luaL_checkinteger(L, 2), luaL_optinteger(L, 3, 1));
    return 0;
}

/* disarm() -> calls, injected */
static int lua_disarm(lua_State *L)
{
    armed = -1;
    alarm(0);
    lua_pushinteger(L, calls);
    lua_pushinteger(L, injected);
    return 2;
}

/* try(kind, n, times, fn) -> calls, injected, whether it returned, what it returned first or
 * raised. Neither fn() nor what follows until the next try() or disarm() may take longer than
 * PATIENCE. */
static int try(lua_State *L)
{
    int kind = check_kind(L, 1);
    long nth = luaL_checkinteger(L, 2), how_often = luaL_checkinteger(L, 3);
    struct below below = { 0 };
    lua_settop(L, 4);
    luaL_checkstack(L, 20, NULL);
    below.fn = lua_getallocf(L, &below.ud);
    lua_setallocf(L, allocate, &below);
    alarm(PATIENCE);
    arm(kind, nth, how_often);
    int status = lua_pcall(L, 0, 1, 0);
    armed = -1;
    lua_setallocf(L, below.fn, below.ud);
    clearerr(stdout); /* what a program says of it at its end is another's matter */
    lua_pushinteger(L, calls);
    lua_pushinteger(L, injected);
    lua_pushboolean(L, status == LUA_OK);
    lua_pushvalue(L, 4);
    return 4;
}

/* kinds() -> list of names */
static int lua_kinds(lua_State *L)
{
    lua_newtable(L);
    for (size_t i = 0; i < COUNT(kinds); i++) {
        lua_pushstring(L, kinds[i].name);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* leaks() -> whether there are any, which the sanitizer then has told on stderr; nil without one */
static int leaks(lua_State *L)
{
    int (*check)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "__lsan_do_recoverable_leak_check");
    if (check)
        lua_pushboolean(L, check() != 0);
    return check ? 1 : 0;
}

__attribute__((visibility("default"))) int luaopen_faults(lua_State *L);
__attribute__((visibility("default"))) int luaopen_faults(lua_State *L)
{
    static const luaL_Reg functions[] = { { "arm", lua_arm }, { "disarm", lua_disarm },
                                          { "try", try },     { "kinds", lua_kinds },
                                          { "leaks", leaks }, { NULL, NULL } };
    lua_createtable(L, 0, (int)COUNT(functions) - 1);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
