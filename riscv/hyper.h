/* hyper.h - what the hypervisor's files offer each other, one paragraph per file.
 *
 * Words and numbers are those of the RISC-V privileged specification ("priv."), chapter
 * "Hypervisor Extension", version 1.0, and of the SBI specification 2.0. There is one hart. All of
 * this runs in HS-mode with interrupts off and addresses untranslated. */
#ifndef HYPER_H
#define HYPER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE 4096ul
#define LARGE_PAGE (512 * PAGE)

/* What a guest sees: RAM at an address where this machine has none, so that no address means the
 * same inside and outside, and time of this rate. */
#define GUEST_BASE 0x40000000ul
#define GUEST_RAM (4 * LARGE_PAGE)
#define TICKS_PER_MS 10000 /* of QEMU's machine `virt` */

#define SSTATUS_SPP (1ul << 8) /* the mode that an sret enters, or that a trap left, is S */

#define MAX_GUESTS 32ul
#define NEVER UINT64_MAX

#define csr_read(name)                                                                             \
    ({                                                                                             \
        uint64_t value_;                                                                           \
        __asm__ volatile("csrr %0, " #name : "=r"(value_));                                        \
        value_;                                                                                    \
    })
#define csr_write(name, value) __asm__ volatile("csrw " #name ", %0" : : "r"((uint64_t)(value)))

/* The state that V=1 has registers of its own for, and three that guests and hypervisor share. */
#define EACH_GUEST_CSR(do_)                                                                        \
    do_(vsstatus) do_(vsie) do_(vstvec) do_(vsscratch) do_(vsepc) do_(vscause) do_(vstval)         \
        do_(vsatp) do_(hvip) do_(scounteren) do_(senvcfg) do_(fcsr)

/* switch.S knows the offsets of everything before the CSRs. */
struct vcpu {
    uint64_t pc, x[32], f[32], sstatus, hstatus, host_sp;
    uint64_t cause, tval, gpa; /* why it left: scause, stval, htval << 2 */
#define FIELD(name) uint64_t name;
    EACH_GUEST_CSR(FIELD)
#undef FIELD
};

enum state { READY, ASLEEP, ENDED };

struct guest {
    struct vcpu vcpu;
    const char *name;
    uint64_t *root; /* of its second-stage tables */
    enum state state;
    uint64_t timer;                /* when its timer interrupt is due, or NEVER */
    uint64_t calls, pages, slices; /* SBI calls, pages given, time slices it used up */
    char line[128];                /* what it printed of a line that is not finished */
    size_t length;
};

/* console.c: formats are %s, and of 64 bits each %lu and %lx */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void vsay(const char *name, const char *format, va_list ap);
void guest_putc(struct guest *guest, char c);
void guest_flush(struct guest *guest); /* shows a line that is not finished */

/* firmware.c */
void firmware_putc(char c);
int firmware_getc(void); /* a byte, or -1 */
void firmware_set_timer(uint64_t time);
void firmware_shutdown(void) __attribute__((noreturn));

/* tree.c, and what text in there takes */
struct machine {
    uint64_t archive, archive_end; /* QEMU's -initrd */
    const char *options;           /* QEMU's -append */
};
void tree_read(const void *tree, struct machine *machine);

bool begins_with(const char *text, const char *word);
uint64_t digits_of(const char *text, unsigned base);

/* archive.c: returns the next file of the archive, NULL at its end; moves *at behind it */
const void *archive_next(uint64_t *at, uint64_t end, const char **name, uint64_t *size);

/* page.c: NULL when there is none; what is given out is zero */
void pages_init(uint64_t start, uint64_t end);
void *page_alloc(uint64_t size); /* PAGE or LARGE_PAGE */
void page_free(void *page, uint64_t size);

/* stage2.c */
bool in_guest(uint64_t gpa);
void *guest_memory(struct guest *guest, uint64_t gpa, bool small); /* NULL: no page left */
void stage2_free(struct guest *guest);

/* switch.S */
void vcpu_enter(struct vcpu *vcpu); /* runs the guest until it leaves */
void fpu_save(uint64_t f[32]);
void fpu_load(const uint64_t f[32]);
void flush_translations(void);
bool guest_fetch(uint64_t address, uint16_t *code); /* false: it cannot execute that itself */
void host_trap(void);

/* vcpu.c */
void hart_init(void);
void vcpu_init(struct vcpu *vcpu);   /* which is zero */
void vcpu_load(struct guest *guest); /* onto the hart */
void vcpu_put(struct guest *guest);
bool vcpu_has_interrupt(void); /* of the guest on the hart: one is pending and enabled */
bool vcpu_wants_timer(void);
void vcpu_set_timer_interrupt(bool pending);
void vcpu_illegal_instruction(struct vcpu *vcpu, uint64_t code); /* is what it gets to handle */

/* guest.c */
void guest_add(const char *name, const void *image, uint64_t size);
struct guest *guest_at(size_t index); /* NULL behind the last one */
void guest_end(struct guest *guest, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* schedule.c */
void schedule(uint64_t most_slices);

/* exit.c */
void handle_exit(struct guest *guest);

/* explain.c */
uint32_t guest_instruction(const struct guest *guest); /* at its pc; 0 when there is none */
void explain(struct guest *guest);                     /* ends it for what it did last */

/* sbi.c */
void sbi_call(struct guest *guest);

#endif
