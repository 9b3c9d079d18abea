/* host.c - see host.h. */
#include "x86/host.h"

#include "base/util.h"

#include <string.h>
#include <unistd.h>

static const char *find_kind(void)
{
    static const char *const kinds[][2] = { { "/sys/module/kvm_pvm", "pvm" },
                                            { "/sys/module/kvm_intel", "vmx" },
                                            { "/sys/module/kvm_amd", "svm" } };
    for (size_t i = 0; i < MK_COUNT(kinds); i++)
        if (access(kinds[i][0], F_OK) == 0)
            return kinds[i][1];
    return "unknown";
}

/* It stays while the process lives, and every VM asks. */
const char *mk_host_kind(void)
{
    static const char *_Atomic known;
    const char *kind = known;
    if (!kind)
        known = kind = find_kind();
    return kind;
}

bool mk_host_is_stock(void)
{
    const char *host = mk_host_kind();
    return strcmp(host, "vmx") == 0 || strcmp(host, "svm") == 0;
}
