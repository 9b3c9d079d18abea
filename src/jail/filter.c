/* filter.c - see filter.h.
 *
 * The filters were made when minikvm was built (tools/filters.c). A system call of another
 * architecture (int 0x80, x32) ends the process, which is libseccomp's default. */
#include "jail/filter.h"

#include "jail/calls.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

struct program {
    const struct sock_filter *code;
    unsigned short count;
};

#include "filters.h" /* made by the build: programs[role][allow], watching, call_names, LONGEST */

bool mk_filter_possible(const char **why)
{
    uint32_t action = SECCOMP_RET_ERRNO;
    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0)
        return true;
    *why = errno == ENOSYS   ? "this kernel has none"
           : errno == EINVAL ? "that of this kernel is older than Linux 4.14"
                             : strerror(errno);
    return false;
}

/* seccomp(2)'s answer. */
static int install(const struct program *program, unsigned flags, struct mk_err *err)
{
    struct sock_filter code[LONGEST];
    struct sock_fprog own = { .len = program->count, .filter = code };
    memcpy(code, program->code, program->count * sizeof(code[0]));
    for (unsigned i = 0; i < program->count; i++)
        if (code[i].k == MK_JAIL_THIS_PROCESS)
            code[i].k = (uint32_t)getpid();
    int rc = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &own);
    return rc < 0 ? mk_fail_errno(err, errno, "seccomp") : rc;
}

int mk_filter_enter(unsigned role, unsigned allow, struct mk_err *err)
{
    return install(&programs[__builtin_ctz(role)][allow], 0, err);
}

int mk_filter_listen(struct mk_err *err)
{
    return install(&watching, SECCOMP_FILTER_FLAG_NEW_LISTENER, err);
}

const char *mk_filter_call_name(int number)
{
    bool known = number >= 0 && (size_t)number < MK_COUNT(call_names) && call_names[number];
    return known ? call_names[number] : "a system call";
}
