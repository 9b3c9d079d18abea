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

#include "filters.h" /* made by the build: programs[role][allow], LONGEST */

bool mk_filter_possible(const char **why)
{
    uint32_t action = SECCOMP_RET_ERRNO;
    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0)
        return true;
    *why = errno == ENOSYS ? "this kernel has none" : strerror(errno);
    return false;
}

int mk_filter_enter(unsigned role, unsigned allow, struct mk_err *err)
{
    const struct program *program = &programs[__builtin_ctz(role)][allow];
    struct sock_filter code[LONGEST];
    struct sock_fprog own = { .len = program->count, .filter = code };
    memcpy(code, program->code, program->count * sizeof(code[0]));
    for (unsigned i = 0; i < program->count; i++)
        if (code[i].k == MK_JAIL_THIS_PROCESS)
            code[i].k = (uint32_t)getpid();
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &own) < 0)
        return mk_fail_errno(err, errno, "seccomp");
    return 0;
}
