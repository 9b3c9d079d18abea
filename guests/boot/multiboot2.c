/* multiboot2.c - a Multiboot2 kernel as an ELF file: Multiboot2 Specification 2.0, section 3.1 (its
 * header), 3.3 (the machine's state), 3.6 (what it is told, which it prints). */
#include "boot.h"

#define HEADER_MAGIC 0xe85250d6u
#define LOADER_MAGIC 0x36d76289u
#define CR0_PE 1u
#define CR0_PG 0x80000000u
#define EFLAGS_IF 0x200u
#define EFLAGS_VM 0x20000u

struct header {
    uint32_t magic, architecture, length, checksum;
    struct {
        uint16_t type, flags;
        uint32_t size, types[5], padding;
    } request;
    struct {
        uint16_t type, flags;
        uint32_t size, width, height, depth, padding;
    } framebuffer;
    struct {
        uint16_t type, flags;
        uint32_t size;
    } align, end;
};

__attribute__((section(".multiboot2"), used, aligned(8))) static const struct header header = {
    .magic = HEADER_MAGIC,
    .length = sizeof(struct header),
    .checksum = -(HEADER_MAGIC + (uint32_t)sizeof(struct header)),
    .request = { .type = 1, .size = 28, .types = { 1, 3, 4, 6, 9 } },
    .framebuffer = { .type = 5, .flags = 1, .size = 20, .width = 64, .height = 48, .depth = 32 },
    .align = { .type = 6, .size = 8 },
    .end = { .size = 8 },
};

static uint8_t stack[4096] __attribute__((aligned(16), used));

/* EAX and EBX as they were at the entry. */
__asm__(".section .text.start, \"ax\"\n"
        ".globl start\n"
        "start: mov esp, offset stack + 4096\n"
        "    push ebx\n"
        "    push eax\n"
        "    call kernel\n"
        "    cli\n"
        "    hlt\n"
        ".text\n");

void kernel(uint32_t magic, const uint32_t *info);

static void tell_module(const uint32_t *tag)
{
    const uint8_t *bytes = (const uint8_t *)tag[2];
    tell_text("module", (const char *)&tag[4]);
    check("module on a page", tag[2] % 4096 == 0 && tag[2] >= 0x100000);
    tell("  bytes", tag[3] - tag[2]);
    tell("  sum", sum(bytes, tag[3] - tag[2]));
}

static void tell_map(const uint32_t *tag)
{
    check("memory map: entry_size, entry_version", tag[2] == 24 && tag[3] == 0);
    for (const uint32_t *e = tag + 4; e < tag + tag[1] / 4; e += 6) {
        print("memory ");
        print_hex(*(const uint64_t *)&e[0]);
        print(" + ");
        print_hex(*(const uint64_t *)&e[2]);
        tell(" type", e[4]);
    }
}

static void tell_framebuffer(const uint32_t *tag)
{
    const uint8_t *bytes = (const uint8_t *)tag;
    tell("framebuffer at", tag[2]);
    tell("  pitch", tag[4]);
    tell("  width", tag[5]);
    tell("  height", tag[6]);
    check("framebuffer: 32 bits, RGB", bytes[28] == 32 && bytes[29] == 1);
    check("framebuffer: colours", bytes[32] == 16 && bytes[34] == 8 && bytes[36] == 0);
    draw((volatile uint32_t *)tag[2], tag[5], tag[6]);
}

/* ELF32: the kernel's own text is where it runs; names of sections, which no segment loads, are in
 * memory, too. */
static void tell_sections(const uint32_t *tag)
{
    const uint32_t *sections = tag + 5;
    check("ELF sections: entsize", tag[3] == 40);
    const char *names = (const char *)sections[tag[4] * 10 + 3];
    for (uint32_t i = 0; i < tag[2]; i++) {
        const uint32_t *s = sections + i * 10;
        const char *name = names + s[0];
        if (!same(name, ".text") && !same(name, ".shstrtab") && !same(name, ".symtab"))
            continue;
        tell_text("section", name);
        if (same(name, ".text"))
            check("text lies around this code",
                  (uint32_t)tell_sections - s[3] < s[5]);
        else
            check("it is in memory", s[3] >= 0x100000);
    }
}

static void tell_tag(const uint32_t *tag)
{
    switch (tag[0]) {
    case 1: tell_text("command line", (const char *)&tag[2]); break;
    case 2: tell_text("loader", (const char *)&tag[2]); break;
    case 3: tell_module(tag); break;
    case 4: tell("lower KiB", tag[2]), tell("upper KiB", tag[3]); break;
    case 6: tell_map(tag); break;
    case 8: tell_framebuffer(tag); break;
    case 9: tell_sections(tag); break;
    case 14: tell("RSDP of revision", ((const uint8_t *)tag)[8 + 15]); break;
    default: tell("tag of type", tag[0]); break;
    }
}

static void check_state(void)
{
    uint32_t cr0, flags;
    uint16_t cs, ds, ss;
    __asm__ volatile("mov %0, cr0; pushf; pop %1" : "=r"(cr0), "=r"(flags));
    __asm__ volatile("mov %0, cs; mov %1, ds; mov %2, ss" : "=r"(cs), "=r"(ds), "=r"(ss));
    check("CR0: PE, no PG", (cr0 & CR0_PE) && !(cr0 & CR0_PG));
    check("EFLAGS: no IF, no VM", !(flags & (EFLAGS_IF | EFLAGS_VM)));
    check("segments", cs && ds && ds == ss);
}

void kernel(uint32_t magic, const uint32_t *info)
{
    tell("magic", magic);
    check("information on a boundary of 8", (uint32_t)info % 8 == 0);
    check_state();
    const uint32_t *tag = info + 2;
    for (; tag[0]; tag += (tag[1] + 7) / 8 * 2)
        tell_tag(tag);
    check("total_size", (uint32_t)tag + 8 - (uint32_t)info == info[0] && tag[1] == 8);
    print("end\n");
}
