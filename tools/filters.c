/* filters.c - makes the seccomp filters of src/jail out of the table in src/jail/calls.c, by
 * libseccomp, when minikvm is built: to make them at a start takes it a millisecond.
 *
 *   filters >filters.h: for each role and each set of mk_jail.allow a program of BPF. */
#include "jail/calls.h"
#include "jail/jail.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROLES 4
#define SETS 8
#define MOST 4096 /* BPF_MAXINSNS, linux/bpf_common.h */

static void check(int rc, const char *what)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "filters: %s: %s\n", what, strerror(-rc));
    exit(1);
}

static void add_call(scmp_filter_ctx ctx, const struct mk_jail_call *call)
{
    struct scmp_arg_cmp test[MK_COUNT(call->test)];
    unsigned count = 0;
    for (; count < MK_COUNT(test) && call->test[count].mask; count++) {
        const struct mk_jail_test *t = &call->test[count];
        test[count] = t->mask == UINT64_MAX
                          ? SCMP_CMP(t->index, SCMP_CMP_EQ, t->value)
                          : SCMP_CMP(t->index, SCMP_CMP_MASKED_EQ, t->mask, t->value);
    }
    int rc = seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, call->number, count, test);
    check(rc == -EEXIST ? 0 : rc, call->why);
}

/* glibc makes threads by clone(2), whose flags can be seen, where there is no clone3(2). */
static scmp_filter_ctx make(uint32_t action, unsigned all_of, unsigned allow)
{
    scmp_filter_ctx ctx = seccomp_init(action);
    check(ctx ? 0 : -ENOMEM, "libseccomp");
    check(seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2), "a binary tree");
    check(seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SYS_clone3, 0), "clone3");
    for (size_t i = 0; i < mk_jail_call_count; i++)
        if ((mk_jail_calls[i].roles & all_of) == all_of && !(mk_jail_calls[i].needs & ~allow))
            add_call(ctx, &mk_jail_calls[i]);
    return ctx;
}

/* ioctl(fd, KVM_RUN) is in the table, too: it is made for every exit of a guest, and comes first.
 */
static const struct sock_filter kvm_run[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 5),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 3),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVM_RUN, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};

static bool runs_guests(unsigned role)
{
    for (size_t i = 0; i < mk_jail_call_count; i++)
        if (mk_jail_calls[i].number == SYS_ioctl && mk_jail_calls[i].test[0].value == KVM_RUN)
            return mk_jail_calls[i].roles & (1u << role);
    return false;
}

/* Returns how many instructions it is. */
static size_t print(scmp_filter_ctx ctx, unsigned role, unsigned allow)
{
    static struct sock_filter code[MOST + 1];
    size_t before = runs_guests(role) ? MK_COUNT(kvm_run) : 0;
    memcpy(code, kvm_run, before * sizeof(code[0]));
    int fd = memfd_create("filter", 0);
    check(fd, "memfd_create");
    check(seccomp_export_bpf(ctx, fd), "a filter");
    ssize_t length = pread(fd, code + before, sizeof(code) - before * sizeof(code[0]), 0);
    size_t count = before + (size_t)length / sizeof(code[0]);
    check(length <= 0 || count > MOST ? -E2BIG : 0, "a filter");
    close(fd);
    printf("static const struct sock_filter code_%u_%u[] = {\n", role, allow);
    for (size_t i = 0; i < count; i++)
        printf("{ 0x%x, %u, %u, 0x%x },\n", code[i].code, code[i].jt, code[i].jf, code[i].k);
    printf("};\n");
    return count;
}

static void print_names(void)
{
    printf("static const char *const call_names[] = {\n");
    for (int i = 0; i < 512; i++) {
        char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, i);
        if (name)
            printf("[%d] = \"%s\",\n", i, name);
        free(name);
    }
    printf("};\n");
}

int main(void)
{
    size_t count[ROLES][SETS], most = 0;
    for (unsigned role = 0; role < ROLES; role++)
        for (unsigned allow = 0; allow < SETS; allow++) {
            scmp_filter_ctx ctx = make(SCMP_ACT_ERRNO(EPERM), 1u << role, allow);
            count[role][allow] = print(ctx, role, allow);
            most = count[role][allow] > most ? count[role][allow] : most;
            seccomp_release(ctx);
        }
    scmp_filter_ctx ctx = make(SCMP_ACT_NOTIFY, MK_ROLE_ALL, 0);
    size_t watching = print(ctx, 0, SETS); /* the log of calls is for guests that run, too */
    most = watching > most ? watching : most;
    seccomp_release(ctx);
    printf("static const struct program watching = { code_0_%d, %zu };\n", SETS, watching);
    print_names();
    printf("#define LONGEST %zu\n", most);
    printf("static const struct program programs[%d][%d] = {\n", ROLES, SETS);
    for (unsigned role = 0; role < ROLES; role++)
        for (unsigned allow = 0; allow < SETS; allow++)
            printf("%s{ code_%u_%u, %zu },%s", allow ? "" : "{ ", role, allow, count[role][allow],
                   allow == SETS - 1 ? " },\n" : " ");
    printf("};\n");
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}
