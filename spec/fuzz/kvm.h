/* kvm.h - a KVM whose guest is the input: each "instruction" is an access, an exit, or bytes that
 * appear in memory. Stands in for /dev/kvm in this program (kvm.c). */
#ifndef FUZZ_KVM_H
#define FUZZ_KVM_H

#include "fuzz.h"

/* What vCPUs execute from now on; when it ends, each run ends with a triple fault. */
void fuzz_kvm_load(const uint8_t *bytes, size_t length);
/* Places in the segment of a BIOS where its code does an OUT to `port`. */
void fuzz_kvm_set_traps(const uint16_t *ips, unsigned count, uint16_t port);

#endif
