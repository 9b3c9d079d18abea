/* host.h - what kind of KVM this host has, by the module that serves /dev/kvm. */
#ifndef MK_HOST_H
#define MK_HOST_H

#include <stdbool.h>

/* "vmx", "svm", "pvm" or "unknown". */
const char *mk_host_kind(void);
/* One of the first two: hardware virtualization does all that guests need. */
bool mk_host_is_stock(void);

#endif
