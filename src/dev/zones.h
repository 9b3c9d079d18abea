/* zones.h - the ports whose one-byte OUTs KVM collects in a ring, so that they cost no exit
 * (Documentation/virt/kvm/api.rst, KVM_REGISTER_COALESCED_MMIO).
 *
 * A port is collected while a device that allows it is on top there, in VMs of one vCPU: the ring
 * would mix the output of several. Some devices allow it in VMs whose guest is known not to mind:
 * the interrupt controllers under Linux, which writes to them five times for each interrupt of a
 * PCI device. Any thread; the lock is that of the bus of ports. */
#ifndef MK_ZONES_H
#define MK_ZONES_H

#include "dev/bus.h"

#define MK_COALESCED_PORTS 16

/* It is collected from the MK_ZONE_OUTS-th byte on, because closing a VM soon after a zone was made
 * costs more than so many exits. */
#define MK_ZONE_OUTS 32

struct mk_zone {
    uint16_t port;
    bool on;
    unsigned outs;
};

struct mk_zones {
    struct mk_bus *bus; /* of ports */
    int vm_fd;
    bool wanted;  /* ports may be collected at all */
    bool patient; /* those of patient devices, too */
    bool exact;   /* but not for now: somebody waits for a byte */
    struct mk_zone zone[MK_COALESCED_PORTS];
    unsigned count;
};

/* Before the first device is hooked. */
void mk_zones_init(struct mk_zones *z, struct mk_bus *ports, bool wanted);
/* The KVM VM is new; it has no zones, and ports must earn them again. */
void mk_zones_register(struct mk_zones *z, int vm_fd);
/* A one-byte OUT to this port, served by a device in C, cost an exit. */
void mk_zones_count_out(struct mk_zones *z, uint16_t port);
/* The guest does not mind when patient devices hear of its OUTs at its next exit; for so long
 * [first, last] are theirs. */
void mk_zones_be_patient(struct mk_zones *z, uint16_t first, uint16_t last);
/* No port is collected any more: there is more than one vCPU. */
void mk_zones_disable(struct mk_zones *z);
/* Every OUT is an exit from now on; they may be collected again. */
void mk_zones_exact(struct mk_zones *z, bool on);

#endif
