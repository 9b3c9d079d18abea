/* loop.h - the run loop of a vCPU, and what goes on between two entries: exits are served, timers
 * and input looked after, limits checked; and how the loop waits.
 *
 * For the thread that runs the vCPU, unless a function says otherwise. */
#ifndef MK_LOOP_H
#define MK_LOOP_H

#include "kvm/vcpu.h"
#include "kvm/wait.h"

/* Runs the guest on the calling thread until c->end says why not. */
void mk_vcpu_run(struct mk_vcpu *c);

/* For a run loop: after an exit, what limits the run; KVM_RUN failed with this errno. */
void mk_vcpu_check_limits(struct mk_vcpu *c);
MK_COLD void mk_vcpu_entry_failed(struct mk_vcpu *c, int code);

/* --- exit.c --- */

/* Serves what KVM_RUN returned with. */
void mk_vcpu_exit(struct mk_vcpu *c);
/* Hands coalesced output to the bus, in order. */
void mk_vcpu_drain(struct mk_vcpu *c);
/* The name of a KVM_EXIT_* number as scripts see it; NULL when it has none. */
const char *mk_exit_name(unsigned kind);

/* --- sleep.c --- */

/* Fires due timers, takes input, acts on requests and the deadline; stays there while the VM is
 * paused. */
void mk_vcpu_handle_events(struct mk_vcpu *c);

/* Between pieces of an access that takes long: false when the run is to end. */
bool mk_vcpu_may_continue(struct mk_vcpu *c);

/* Sleeps until `until`, a timer of the VM, or a request. */
void mk_vcpu_sleep(struct mk_vcpu *c, uint64_t until);

/* In a handler, in the middle of an access: until it is done, which is true then; until `until`; or
 * until the run shall end, with the reason. Output, input, timers and doorbells go on; the time
 * that the VM is paused does not count. */
bool mk_vcpu_wait(struct mk_vcpu *c, uint64_t until, const struct mk_wait *wait,
                  enum mk_reason *reason);

/* In the middle of an access: while the reader of the output is slow, until the run shall end. */
void mk_vcpu_wait_for_room(struct mk_vcpu *c);
/* Waits until all that was printed is written: false when the run shall end first. */
bool mk_vcpu_finish_output(struct mk_vcpu *c);

/* Ends the run if its output is over the limit. The bytes that this run has printed. */
void mk_vcpu_check_output(struct mk_vcpu *c);
uint64_t mk_vcpu_output_bytes(const struct mk_vcpu *c);
/* Ends it because output is lost. */
void mk_vcpu_output_failed(struct mk_vcpu *c);

/* --- device.c --- */

extern const struct mk_cpu_ops mk_device_ops;

#endif
