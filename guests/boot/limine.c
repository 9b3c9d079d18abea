/* limine.c - a kernel for the Limine boot protocol (PROTOCOL.md, base revision 6): prints what it was
 * told, and checks the machine's state, the page tables and the memory map. Linked at
 * 0xffffffff80000000, or position-independent. */
#include "boot.h"
#include "limine.h"

#define PAGE 4096u
#define STACK 0x20000u
#define ADDRESS UINT64_C(0x000ffffffffff000)
#define UNTOUCHED ((void *)0x1234)
#define REQUESTS __attribute__((section(".requests"), used, aligned(8)))
#define REQUEST(a, b, ...)                                                                          \
    { .id = { 0xc7b1dd30df4c8b88, 0x0a82e883a194f07b, a, b }, .response = UNTOUCHED, __VA_ARGS__ }

__attribute__((section(".requests_start"), used, aligned(8))) static volatile uint64_t first[4] = {
    0xf6b8f4b39de7d1ae, 0xfab91a6940fcb9cf, 0x785c6ed015d3e316, 0x181e920a7852b9d9
};
__attribute__((section(".requests_end"), used, aligned(8))) static volatile uint64_t last[2] = {
    0xadc0e0531bb10d03, 0x9572709f31764c62
};
REQUESTS static volatile uint64_t base_revision[3] = { 0xf9562b2d5c95a6c8, 0x6a7b384944536bdc, 6 };

void start(void);

enum { LOADER, LINE, FIRMWARE, STACK_SIZE, HHDM, SCREEN, PAGING, MAP, ENTRY, FILE, MODULE, DATE,
       WHERE, TSC, ANSWERED, RSDP = ANSWERED, SMBIOS, EFI, MP, NOBODYS, REQUESTED };

REQUESTS static volatile struct request requests[REQUESTED] = {
    [LOADER] = REQUEST(0xf55038d8e2a1202f, 0x279426fcf5f59740),
    [LINE] = REQUEST(0x4b161536e598651e, 0xb390ad4a2f1f303a),
    [FIRMWARE] = REQUEST(0x8c2f75d90bef28a8, 0x7045a4688eac00c3),
    [STACK_SIZE] = REQUEST(0x224ef0460a8e8926, 0xe1cb0fc25f46ea3d, .more = { STACK }),
    [HHDM] = REQUEST(0x48dcf1cb8ad2b852, 0x63984e959a98244b),
    [SCREEN] = REQUEST(0x9d5827dcd881dd75, 0xa3148604f6fab11b),
    [PAGING] = REQUEST(0x95c1a0edab0944cb, 0xa4e5cb3842f7488a, .revision = 1, .more = { 1, 1, 0 }),
    [MAP] = REQUEST(0x67cf3d9d378a806f, 0xe304acdfc50c3c62),
    [ENTRY] = REQUEST(0x13d86c035a1cd3e1, 0x2b0caa89d8f3026a, .more = { (uint64_t)start }),
    [FILE] = REQUEST(0xad97e90e83f1ed67, 0x31eb5d1c5ff23b69),
    [MODULE] = REQUEST(0x3e7e279702be32af, 0xca1c4f3bd1280cee),
    [DATE] = REQUEST(0x502746e184c088aa, 0xfbc5ec83e6327893),
    [WHERE] = REQUEST(0x71ba76863cc55f63, 0xb2644a48c516a487),
    [TSC] = REQUEST(0x10f2ee1d87d195e4, 0xf747a2b78f6ddb31),
    [RSDP] = REQUEST(0xc5e77b6b397e7b43, 0x27637845accdcf3c),
    [SMBIOS] = REQUEST(0x9e9046f11e095391, 0xaa4a520fefbde5ee),
    [EFI] = REQUEST(0x5ceba5163eaaf6d6, 0x0a6981610cf65fcc),
    [MP] = REQUEST(0x95a67b819a1b857e, 0xa0b61b723b6a73e0),
    [NOBODYS] = REQUEST(0x1111111111111111, 0x2222222222222222),
};

extern uint8_t kernel_start[], kernel_end[];
static const char constant[] = "a constant";
static uint64_t variable = 1;

/* --- the entry --- */

static struct state {
    uint64_t general[15]; /* all but RSP */
    uint64_t rsp, rflags;
} state __attribute__((used));

__asm__(".text\n"
        ".globl start\n"
        "start: mov [rip + state], rax\n"
        "    lea rax, [rip + state]\n"
        "    mov [rax + 8], rbx\n"
        "    mov [rax + 16], rcx\n"
        "    mov [rax + 24], rdx\n"
        "    mov [rax + 32], rsi\n"
        "    mov [rax + 40], rdi\n"
        "    mov [rax + 48], rbp\n"
        "    mov [rax + 56], r8\n"
        "    mov [rax + 64], r9\n"
        "    mov [rax + 72], r10\n"
        "    mov [rax + 80], r11\n"
        "    mov [rax + 88], r12\n"
        "    mov [rax + 96], r13\n"
        "    mov [rax + 104], r14\n"
        "    mov [rax + 112], r15\n"
        "    mov [rax + 120], rsp\n"
        "    pushfq\n"
        "    pop qword ptr [rax + 128]\n"
        "    and rsp, -16\n"
        "    call kernel\n"
        "    hlt\n");

void kernel(void);

/* --- answers --- */

static void *answer(int i)
{
    check("it was answered", requests[i].response != UNTOUCHED); /* not left as it was */
    return requests[i].response;
}

static uint64_t number(int i)
{
    return ((struct numbers *)answer(i))->first;
}

static uint64_t hhdm;

static const struct memory *entry(const struct list *map, uint64_t i)
{
    return map->items[i];
}

/* The type of all memory in [base, base + length); -1 when there is more than one. */
static int64_t type_of(uint64_t base, uint64_t length)
{
    const struct list *map = requests[MAP].response;
    for (uint64_t i = 0; i < map->count; i++) {
        const struct memory *m = entry(map, i);
        if (base - m->base < m->length)
            return length <= m->length - (base - m->base) ? (int64_t)m->type : -1;
    }
    return -1;
}

/* --- page tables --- */

struct page {
    uint64_t address, flags; /* those of all levels; 0: not mapped */
    bool large;
};

static struct page walk(uint64_t linear)
{
    uint64_t cr3, table, all = ~UINT64_C(0), nx = 0;
    __asm__("mov %0, cr3" : "=r"(cr3));
    table = cr3 & ADDRESS;
    for (int shift = 39;; shift -= 9) {
        uint64_t e = ((const uint64_t *)(hhdm + table))[linear >> shift & 511];
        if (!(e & 1))
            return (struct page){ 0 };
        all &= e, nx |= e >> 63;
        bool large = shift == 21 && e & 0x80;
        if (shift == 12 || large) {
            uint64_t size = UINT64_C(1) << shift;
            return (struct page){ (e & ADDRESS & -size) + (linear & (size - 1)),
                                  (all & 7) | (e & 0x1098) | nx << 63, large };
        }
        table = e & ADDRESS;
    }
}

static bool rights(const void *at, uint64_t wanted)
{
    return (walk((uint64_t)at).flags & (UINT64_C(1) << 63 | 7)) == wanted;
}

static void check_pages(void)
{
    const uint64_t nx = UINT64_C(1) << 63;
    struct numbers *where = answer(WHERE);
    check("text: supervisor, execute", rights(kernel, 1));
    check("constants: supervisor, read", rights(constant, 1 | nx));
    check("data: supervisor, read, write", rights(&variable, 3 | nx));
    check("virtual_base", where->second == (uint64_t)kernel_start && where->second % PAGE == 0);
    check("at or above -2 GiB", where->second >= 0xffffffff80000000);
    for (uint8_t *p = kernel_start; p < kernel_end; p += PAGE)
        check("one offset", walk((uint64_t)p).address - where->first == (uint64_t)(p - kernel_start));
    check("kernel in the memory map",
          type_of(where->first, (uint64_t)(kernel_end - kernel_start)) == KERNEL);
    check("no identity map", !walk(PAGE).flags && !walk(where->first).flags);
}

static void check_map(void)
{
    const struct list *map = answer(MAP);
    uint64_t before = 0, ram = 0, usable = 0;
    for (uint64_t i = 0; i < map->count; i++) {
        const struct memory *m = entry(map, i);
        uint64_t end = m->base + m->length;
        bool mapped = m->type == USABLE || m->type >= RECLAIMABLE;
        check("memory map sorted, no overlap", m->base >= before);
        if (m->type == USABLE || m->type == RECLAIMABLE)
            check("memory map aligned", m->base % PAGE == 0 && m->length % PAGE == 0);
        struct page a = walk(hhdm + m->base), z = walk(hhdm + end - 1);
        check(mapped ? "in the higher half" : "not in the higher half",
              mapped == (a.flags != 0) && mapped == (z.flags != 0));
        if (mapped)
            check("read, write, execute there", a.address == m->base && z.address == end - 1 &&
                                                    (a.flags & 7) == 3 && !(a.flags >> 63));
        before = end;
        ram = m->type == FRAMEBUFFER ? ram : end;
        usable += m->type == USABLE ? m->length : 0;
        if (m->type == USABLE)
            *(volatile uint8_t *)(hhdm + m->base) = 1;
    }
    check("half of RAM is usable", usable > ram / 2);
    check("page 0, video memory", type_of(0, PAGE) == RESERVED && type_of(0xb8000, PAGE) == RESERVED);
}

/* --- the machine's state --- */

static uint64_t msr(uint32_t index)
{
    uint32_t low, high;
    __asm__("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (uint64_t)high << 32 | low;
}

static void check_registers(void)
{
    uint64_t cr0, cr4;
    for (unsigned i = 0; i < ELEMENTS(state.general); i++)
        check("a register is 0", state.general[i] == 0);
    __asm__("mov %0, cr0; mov %1, cr4" : "=r"(cr0), "=r"(cr4));
    check("RFLAGS", state.rflags == 2);
    check("CR0: PE, ET, WP, PG", cr0 == 0x80010011);
    check("CR4: PAE", cr4 == 0x20);
    check("EFER: LME, LMA, NXE", msr(0xc0000080) == 0xd00);
    check("PAT", (msr(0x277) & 0xffffffffffff) == 0x010500070406);
    check("FS, GS base", msr(0xc0000100) == 0 && msr(0xc0000101) == 0);
}

static void check_stack(void)
{
    uint64_t top = state.rsp + 8;
    check("RSP in the higher half", type_of(top - hhdm - STACK, STACK) == RECLAIMABLE);
    check("RSP as after a call", top % 16 == 0 && *(uint64_t *)state.rsp == 0);
}

struct __attribute__((packed)) table {
    uint16_t limit;
    uint64_t base;
};

static void check_gdt(void)
{
    /* Base and limit of 64-bit segments do not matter; nor whether they were used. */
    static const uint64_t wanted[7] = { 0, 0x00009a000000ffff, 0x000092000000ffff, 0x00cf9a000000ffff,
                                        0x00cf92000000ffff, 0x0020980000000000, 0x0000920000000000 };
    static const uint64_t matter[7] = { ~UINT64_C(0), 0xfffffeffffffffff, 0xfffffeffffffffff,
                                        0xfffffeffffffffff, 0xfffffeffffffffff, 0x0060f80000000000,
                                        0x0000fa0000000000 };
    struct table gdt;
    __asm__("sgdt %0" : "=m"(gdt));
    check("GDTR", gdt.limit >= 55 && type_of(gdt.base - hhdm, 56) == RECLAIMABLE);
    for (unsigned i = 0; i < 7; i++)
        check("GDT", (((uint64_t *)gdt.base)[i] & matter[i]) == wanted[i]);
}

static void check_segments(void)
{
    uint16_t cs, ds, es, fs, gs, ss;
    struct table idt;
    __asm__("mov %0, cs; mov %1, ds; mov %2, es; mov %3, fs; mov %4, gs; mov %5, ss"
            : "=r"(cs), "=r"(ds), "=r"(es), "=r"(fs), "=r"(gs), "=r"(ss));
    check("CS", cs == 0x28);
    check("data segments", ds == 0x30 && es == 0x30 && fs == 0x30 && gs == 0x30 && ss == 0x30);
    __asm__("sidt %0" : "=m"(idt));
    check("no IDT", idt.limit == 0 && idt.base == 0);
    __asm__("str %0; sldt %1" : "=r"(ds), "=r"(es));
    check("TR, LDTR", ds == 0 && es == 0);
}

/* --- what is printed --- */

static bool left(int i)
{
    return requests[i].response == UNTOUCHED;
}

static void tell_screen(void)
{
    if (left(SCREEN)) {
        print("no framebuffer\n");
        return;
    }
    const struct list *list = answer(SCREEN);
    const struct framebuffer *f = list->items[0];
    static const uint8_t colours[6] = { 8, 16, 8, 8, 8, 0 };
    tell("framebuffer at", (uint64_t)f->address - hhdm);
    tell("  width", f->width);
    tell("  height", f->height);
    check("framebuffer", list->revision == 1 && list->count == 1 && f->pitch == f->width * 4 &&
                             f->bpp == 32 && f->model == 1 && f->mode_count == 1 &&
                             f->modes[0]->width == f->width && !f->edid);
    for (unsigned i = 0; i < 6; i++)
        check("framebuffer: colours", f->colours[i] == colours[i]);
    struct page page = walk((uint64_t)f->address);
    check("write-combining: entry 5 of the PAT",
          (page.flags & (page.large ? 0x1018 : 0x98)) == (page.large ? 0x1008 : 0x88));
    draw(f->address, (uint32_t)f->width, (uint32_t)f->height);
}

static void tell_modules(void)
{
    if (left(MODULE)) {
        print("no modules\n");
        return;
    }
    const struct list *list = answer(MODULE);
    for (uint64_t i = 0; i < list->count; i++) {
        const struct file *f = list->items[i];
        uint64_t at = (uint64_t)f->address - hhdm;
        tell_text("module", f->path);
        tell_text("  string", f->string);
        tell("  bytes", f->size);
        tell("  sum", sum(f->address, (uint32_t)f->size));
        check("module on pages of its own", at % PAGE == 0 && type_of(at, f->size) == KERNEL);
    }
}

static void check_file(void)
{
    const struct file *f = (const void *)number(FILE);
    const struct texts *line = answer(LINE);
    check("the kernel's file", f && *(uint32_t *)f->address == 0x464c457f && f->size > PAGE);
    check("its string is the command line", f && f->string == line->first);
}

static void check_unanswered(void)
{
    for (int i = ANSWERED; i < REQUESTED; i++)
        check("left as it was", left(i));
}

void kernel(void)
{
    const struct texts *loader = answer(LOADER);
    check("base revision", base_revision[2] == 0 && base_revision[1] == 6);
    hhdm = number(HHDM);
    tell("HHDM", hhdm);
    tell_text("loader", loader->first);
    check("its version", loader->second[0] >= '0' && loader->second[0] <= '9');
    tell_text("command line", ((const struct texts *)answer(LINE))->first);
    tell("firmware", number(FIRMWARE));
    tell("paging mode", number(PAGING));
    check("date", number(DATE) > 1700000000);
    if (!left(TSC))
        check("frequency of the TSC", number(TSC) > 1000000);
    answer(STACK_SIZE), answer(ENTRY);
    tell_screen();
    tell_modules();
    check_file();
    check_map();
    check_pages();
    check_registers();
    check_stack();
    check_gdt();
    check_segments();
    check_unanswered();
    tell("slide or link address", (uint64_t)kernel_start);
    print("end\n");
}
