/* test_cpu.c - the state a vCPU begins in, as data: no KVM, no Lua.
 *
 * Expected values are written out from the Intel SDM, volume 3, not computed like the code does. */
#include "memory.h"

/* What KVM may create a vCPU with; fields that no mode sets must stay. */
static struct mk_start fresh(void)
{
    struct mk_start start;
    memset(&start.regs, 0x5a, sizeof(start.regs));
    memset(&start.sregs, 0, sizeof(start.sregs));
    start.sregs.apic_base = 0xfee00900;
    start.sregs.cr8 = 7;
    start.sregs.ldt.unusable = 1;
    return start;
}

static void is_segment(const struct kvm_segment *s, struct kvm_segment want, const char *name)
{
    bool same = s->base == want.base && s->limit == want.limit && s->selector == want.selector &&
                s->type == want.type && s->present == want.present && s->dpl == want.dpl &&
                s->db == want.db && s->s == want.s && s->l == want.l && s->g == want.g &&
                s->avl == want.avl && s->unusable == want.unusable;
    if (!tap_ok(same, name))
        printf("# %04x base %llx limit %x type %x dpl %u db %u s %u l %u g %u p %u\n", s->selector,
               (unsigned long long)s->base, s->limit, s->type, s->dpl, s->db, s->s, s->l, s->g,
               s->present);
}

static bool same_regs(const struct kvm_regs *have, const struct kvm_regs *want)
{
    return memcmp(have, want, sizeof(*have)) == 0;
}

/* --- real mode --- */

static void test_real_start(void)
{
    struct mk_start start = fresh();
    struct kvm_regs want = { .rip = 0x1234, .rsp = 0xfff0, .rflags = 2 };
    struct kvm_segment code = {
        .base = 0x80000, .limit = 0xffff, .selector = 0x8000, .type = 0xb, .present = 1, .s = 1
    };
    struct kvm_segment data = code;
    data.type = 3;
    mk_real_start(&start, 0x8000, 0x1234);
    tap_ok(same_regs(&start.regs, &want), "real: IP and SP, the rest zero");
    is_segment(&start.sregs.cs, code, "real: CS is the window");
    is_segment(&start.sregs.ds, data, "real: DS");
    is_segment(&start.sregs.es, data, "real: ES");
    is_segment(&start.sregs.fs, data, "real: FS");
    is_segment(&start.sregs.gs, data, "real: GS");
    is_segment(&start.sregs.ss, data, "real: SS");
    tap_is((long long)start.sregs.cr0, 0, "real: control registers stay as KVM made them");
    tap_is((long long)start.sregs.apic_base, 0xfee00900, "real: and so does the rest");
    mk_real_start(&start, 0xffff, 0xffff);
    tap_is((long long)start.sregs.cs.base, 0xffff0, "real: the highest segment");
    tap_is((long long)start.regs.rip, 0xffff, "real: the highest IP");
}

/* --- descriptors --- */

static void test_descriptor(void)
{
    is_segment(&(struct kvm_segment){ 0 }, mk_descriptor_decode(0, 0), "descriptor: the null one");
    struct kvm_segment got = mk_descriptor_decode(0x08, 0x00cf9b000000ffff);
    is_segment(&got,
               (struct kvm_segment){ .limit = 0xffffffff,
                                     .selector = 8,
                                     .type = 0xb,
                                     .s = 1,
                                     .present = 1,
                                     .db = 1,
                                     .g = 1 },
               "descriptor: flat 32-bit code");
    got = mk_descriptor_decode(0x23, 0xfedc73123456789a & ~UINT64_C(0x0080000000000000));
    is_segment(&got,
               (struct kvm_segment){ .base = 0xfe123456,
                                     .limit = 0xc789a,
                                     .selector = 0x23,
                                     .type = 3,
                                     .s = 1,
                                     .dpl = 3,
                                     .db = 1,
                                     .avl = 1 },
               "descriptor: base and limit in pieces, ring 3, available, absent, limit in bytes");
    got = mk_descriptor_decode(0x30, 0x00af9a0000000000);
    is_segment(&got,
               (struct kvm_segment){ .limit = 0xf0000fff,
                                     .selector = 0x30,
                                     .type = 0xa,
                                     .s = 1,
                                     .present = 1,
                                     .l = 1,
                                     .g = 1 },
               "descriptor: 64-bit code, limit in pages");
    got = mk_descriptor_decode(0x28, 0x00008b0005800067);
    is_segment(&got,
               (struct kvm_segment){
                   .base = 0x580, .limit = 0x67, .selector = 0x28, .type = 0xb, .present = 1 },
               "descriptor: a busy TSS is a system segment");
}

/* --- protected mode --- */

static const struct mk_places usual = { .tables = MK_PAGE_DIR };

static void test_prot_start(bool paged)
{
    struct mk_mem mem = open_memory(4 * MIB);
    struct mk_start start = fresh();
    struct kvm_regs want = { .rip = 0x80001000, .rsp = 4 * MIB - 16, .rflags = 2, .rbx = 0xe00 };
    struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 0x08, .type = 0xb, .present = 1, .s = 1, .db = 1, .g = 1
    };
    struct kvm_segment data = code;
    data.selector = 0x10;
    data.type = 3;
    start.sregs.cr4 = 0x40; /* something of KVM's own */
    mk_prot_start(&start, &mem, &usual, 0x80001000, paged);
    const struct kvm_sregs *s = &start.sregs;
    tap_ok(same_regs(&start.regs, &want), "prot: EIP, ESP below the top, EBX, the rest zero");
    is_segment(&s->cs, code, "prot: CS");
    is_segment(&s->ds, data, "prot: DS");
    is_segment(&s->es, data, "prot: ES");
    is_segment(&s->fs, data, "prot: FS");
    is_segment(&s->gs, data, "prot: GS");
    is_segment(&s->ss, data, "prot: SS");
    is_segment(&s->tr,
               (struct kvm_segment){
                   .base = 0x580, .limit = 0x67, .selector = 0x28, .type = 0xb, .present = 1 },
               "prot: TR");
    tap_is(s->ldt.unusable, 1, "prot: no LDT");
    tap_is((long long)s->gdt.base, 0x500, "prot: GDTR base");
    tap_is(s->gdt.limit, 47, "prot: GDTR limit");
    tap_is((long long)s->idt.base, 0x600, "prot: IDTR base");
    tap_is(s->idt.limit, 2047, "prot: IDTR limit");
    tap_is((long long)s->cr0, paged ? 0x80010031 : 0x31, "prot: CR0");
    tap_is((long long)s->cr3, paged ? 0x100000 : 0, "prot: CR3");
    tap_is((long long)s->cr4, paged ? 0x50 : 0x40, "prot: CR4");
    tap_is((long long)s->efer, 0, "prot: EFER");
    mk_mem_close(&mem);
}

/* The registers that a boot protocol describes: Limine's PROTOCOL.md, "Machine State at Entry". */
static void test_handoff(void)
{
    struct mk_start start = fresh();
    struct mk_handoff h = { .cr0 = 0x80010011,
                            .cr3 = 0x5000,
                            .cr4 = 0x20,
                            .efer = 0xd00,
                            .rsp = 0xffff800000007ff8,
                            .gdt = 0xffff800000006000,
                            .gdt_limit = 55,
                            .cs = 0x28,
                            .ds = 0x30,
                            .code = 0x00af9b000000ffff,
                            .data = 0x00cf93000000ffff };
    struct kvm_regs want = { .rip = 0xffffffff80001000, .rsp = h.rsp, .rflags = 2 };
    struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 0x28, .type = 0xb, .present = 1, .s = 1, .l = 1, .g = 1
    };
    struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 0x30, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
    };
    mk_handoff_start(&start, &h, want.rip);
    const struct kvm_sregs *s = &start.sregs;
    tap_ok(same_regs(&start.regs, &want), "handoff: RIP, RSP, RFLAGS, the rest zero");
    is_segment(&s->cs, code, "handoff: CS");
    is_segment(&s->ss, data, "handoff: SS");
    is_segment(&s->gs, data, "handoff: GS");
    is_segment(&s->tr, (struct kvm_segment){ .type = 0xb, .present = 1 }, "handoff: no TSS");
    tap_is(s->ldt.unusable, 1, "handoff: no LDT");
    tap_ok(s->gdt.base == h.gdt && s->gdt.limit == 55, "handoff: GDTR");
    tap_ok(s->idt.base == 0 && s->idt.limit == 0, "handoff: no IDT");
    tap_ok(s->cr0 == h.cr0 && s->cr3 == h.cr3 && s->cr4 == h.cr4 && s->efer == h.efer,
           "handoff: control registers");
}

static void test_prot_gdt(void)
{
    static const struct {
        unsigned selector;
        uint64_t bytes;
        const char *name;
    } table[] = {
        { 0, 0, "GDT: null" },
        { MK_SEL_KCODE, 0x00cf9b000000ffff, "GDT: kernel code" },
        { MK_SEL_KDATA, 0x00cf93000000ffff, "GDT: kernel data" },
        { MK_SEL_UCODE, 0x00cffb000000ffff, "GDT: user code" },
        { MK_SEL_UDATA, 0x00cff3000000ffff, "GDT: user data" },
        { MK_SEL_TSS, 0x00008b0005800067, "GDT: TSS" },
    };
    struct mk_mem mem = open_memory(64 * 1024);
    mk_prot_tables(&mem, &usual, false, &(struct mk_boot){ 0 });
    for (size_t i = 0; i < MK_COUNT(table); i++)
        tap_is((long long)get64(&mem, 0x500 + table[i].selector), (long long)table[i].bytes,
               table[i].name);
    mk_mem_close(&mem);
}

static void test_prot_tables(void)
{
    struct mk_mem mem = open_memory(64 * 1024);
    memset(mem.regions[0].host, 0xaa, mem.size);
    tap_ok(mk_prot_tables(&mem, &usual, false, &(struct mk_boot){ .features = 0x2a }),
           "tables: written");
    tap_ok(all(&mem, 0, 0x500, 0xaa), "tables: nothing below the GDT");
    tap_ok(all(&mem, 0x500 + 48, 0x540, 0xaa), "tables: the GDT ends before the list of RAM");
    tap_is((long long)get64(&mem, 0x540), 0, "ranges: RAM begins at 0");
    tap_is((long long)get64(&mem, 0x548), 64 * 1024, "ranges: all of it");
    tap_is(get32(&mem, 0x550), 1, "ranges: type 1 is RAM");
    tap_ok(all(&mem, 0x554, 0x580, 0xaa), "tables: the list ends before the TSS");
    tap_is(get32(&mem, 0x584), 0xfff0, "TSS: ESP0 is the stack's top");
    tap_is(get32(&mem, 0x588), 0x10, "TSS: SS0 is kernel data");
    tap_ok(all(&mem, 0x58c, 0x580 + 100, 0), "TSS: the rest is zero");
    tap_is(get32(&mem, 0x580 + 100), 104 << 16, "TSS: no trap, and no I/O map");
    tap_ok(all(&mem, 0x580 + 104, 0x600, 0xaa), "tables: the TSS ends before the IDT");
    tap_ok(all(&mem, 0x600, 0xe00, 0), "IDT: 256 absent gates");
    tap_is(get32(&mem, 0xe00), 0x49424b4d, "boot: magic");
    tap_ok(memcmp(mem.regions[0].host + 0xe00, "MKBI", 4) == 0, "boot: which spells MKBI");
    tap_is(get32(&mem, 0xe04), 28, "boot: its size");
    tap_is(get32(&mem, 0xe08), 64 * 1024, "boot: RAM");
    tap_is(get32(&mem, 0xe0c), 0x2a, "boot: features");
    tap_is(get32(&mem, 0xe10), 0, "boot: no command line");
    tap_is(get32(&mem, 0xe14), 1, "boot: one range of RAM");
    tap_is(get32(&mem, 0xe18), 0x540, "boot: where the list is");
    tap_ok(all(&mem, 0xe1c, mem.size, 0xaa), "tables: nothing behind the boot information");
    mk_mem_close(&mem);
}

/* The same page, elsewhere. */
static void test_prot_moved(void)
{
    static const struct mk_places moved = { .low = 0x9000, .tables = 0x7000 };
    struct mk_mem mem = open_memory(64 * 1024), there = open_memory(2 * MIB);
    struct mk_start start = fresh();
    struct mk_boot boot = { .command_line = "x" };
    mk_prot_tables(&there, &usual, true, &boot);
    tap_ok(mk_prot_tables(&mem, &moved, true, &boot), "moved: written");
    tap_ok(all(&mem, 0, 0x7000, 0) && all(&mem, 0x8000, 0x9500, 0) &&
               all(&mem, 0xa000, mem.size, 0),
           "moved: nothing is at the usual place");
    tap_ok(!memcmp(mem.regions[0].host + 0x9600, there.regions[0].host + 0x600, 0x808),
           "moved: IDT and its like");
    tap_is((long long)get64(&mem, 0x9528), 0x00008b0095800067, "moved: the TSS's descriptor");
    tap_is(get32(&mem, 0x9e10), 0x9e40, "moved: the command line's address");
    mk_prot_start(&start, &mem, &moved, 0x1000, true);
    tap_ok(start.sregs.gdt.base == 0x9500 && start.sregs.idt.base == 0x9600 &&
               start.sregs.tr.base == 0x9580 && start.sregs.cr3 == 0x7000 &&
               start.regs.rbx == 0x9e00,
           "moved: the registers say where");
    mk_mem_close(&mem);
    mk_mem_close(&there);
}

static void is_command_line(size_t length, size_t kept, const char *name)
{
    struct mk_mem mem = open_memory(64 * 1024);
    char *text = malloc(length + 1);
    memset(text, 'x', length);
    text[length] = 0;
    memset(mem.regions[0].host, 0xaa, mem.size);
    mk_prot_tables(&mem, &usual, false, &(struct mk_boot){ .command_line = text });
    tap_ok(get32(&mem, 0xe10) == 0xe40 && all(&mem, 0xe40, 0xe40 + kept, 'x') &&
               mem.regions[0].host[0xe40 + kept] == 0 &&
               all(&mem, 0xe40 + kept + 1, mem.size, 0xaa),
           name);
    free(text);
    mk_mem_close(&mem);
}

static void test_boot_command_line(void)
{
    is_command_line(0, 0, "boot: an empty command line");
    is_command_line(5, 5, "boot: a command line");
    is_command_line(447, 447, "boot: the longest command line");
    is_command_line(448, 447, "boot: one byte more is cut off");
    is_command_line(100000, 447, "boot: and so is much more");
}

static void test_prot_sizes(void)
{
    static const struct {
        uint64_t size;
        bool paged, fits;
    } sizes[] = { { MK_PAGE, false, false },
                  { 2 * MK_PAGE, false, true },
                  { 2 * MK_PAGE, true, false },
                  { MIB, true, false },
                  { MIB + MK_PAGE, true, true } };
    for (size_t i = 0; i < MK_COUNT(sizes); i++) {
        struct mk_mem mem = open_memory(sizes[i].size);
        bool fits = mk_prot_tables(&mem, &usual, sizes[i].paged, &(struct mk_boot){ 0 });
        tap_is(fits, sizes[i].fits, "tables: RAM is large enough for them or not");
        if (!fits)
            tap_ok(all(&mem, 0, mem.size, 0), "tables: nothing is written when they do not fit");
        mk_mem_close(&mem);
    }
}

static void test_directory(uint64_t size, unsigned entries)
{
    struct mk_mem mem = open_memory(size);
    unsigned wrong = 0;
    memset(mem.regions[0].host + MK_PAGE_DIR, 0xaa, MK_PAGE);
    mk_prot_tables(&mem, &usual, true, &(struct mk_boot){ 0 });
    for (unsigned i = 0; i < 1024; i++) {
        uint32_t want = i % 512 < entries ? (i % 512) << 22 | L | U | W | P : 0;
        wrong += get32(&mem, MK_PAGE_DIR + i * 4) != want;
    }
    tap_is(wrong, 0, "directory: RAM at 0 and at 0x80000000 in 4 MiB pages, nothing else");
    mk_mem_close(&mem);
}

static void test_huge(void)
{
    struct mk_mem mem = open_memory(UINT64_C(8) << 30); /* few of its pages are touched */
    struct mk_start start = fresh();
    tap_ok(mk_prot_tables(&mem, &usual, false, &(struct mk_boot){ 0 }), "8 GiB: tables");
    mk_prot_start(&start, &mem, &usual, 0x1000, false);
    tap_is(get32(&mem, 0xe08), 0xffffffff, "8 GiB: a u32 in the boot information is at its end");
    tap_is((long long)start.regs.rsp, 0x3ffffff0, "8 GiB: the stack is in the first GiB");
    mk_mem_close(&mem);
}

int main(void)
{
    test_real_start();
    test_descriptor();
    test_handoff();
    test_prot_start(false);
    test_prot_start(true);
    test_prot_gdt();
    test_prot_tables();
    test_prot_moved();
    test_boot_command_line();
    test_prot_sizes();
    test_directory(MIB + MK_PAGE, 1);
    test_directory(4 * MIB, 1);
    test_directory(4 * MIB + MK_PAGE, 2);
    test_directory(64 * MIB, 16);
    test_huge();
    return tap_done();
}
