/* pvh.c - a kernel with a PVH entry point: Xen, docs/misc/pvh.pandoc (the machine's state),
 * public/arch-x86/hvm/start_info.h (what it is told, which it prints), public/elfnote.h. */
#include "boot.h"


/* A note's name and value are made of whole words. */
__asm__(".section .note.pvh, \"a\", @note\n"
        ".align 4\n"
        ".long 4, 4, 18\n"
        ".asciz \"Xen\"\n"
        ".long start\n"
        ".section .text.start, \"ax\"\n"
        ".globl start\n"
        "start: mov esp, offset stack + 4096\n"
        "    push ebx\n"
        "    call kernel\n"
        "    cli\n"
        "    hlt\n"
        ".text\n");

static uint8_t stack[4096] __attribute__((aligned(16), used));

struct module {
    uint64_t address, size, command_line, reserved;
};

struct memory {
    uint64_t address, size;
    uint32_t type, reserved;
};

struct start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line, rsdp, map;
    uint32_t map_count, reserved;
};

void kernel(const struct start_info *info);

static void check_state(void)
{
    uint32_t cr0, cr4, flags;
    __asm__ volatile("mov %0, cr0; mov %1, cr4; pushf; pop %2" : "=r"(cr0), "=r"(cr4), "=r"(flags));
    check("CR0: PE, no PG", (cr0 & 0x80000001) == 1);
    check("CR4 is 0", cr4 == 0);
    check("EFLAGS: no IF, TF, VM", !(flags & 0x20300));
}

static void tell_module(const struct module *m)
{
    tell_text("module", (const char *)(uint32_t)m->command_line);
    check("module on a page", m->address % 4096 == 0);
    tell("  bytes", m->size);
    tell("  sum", sum((const uint8_t *)(uint32_t)m->address, (uint32_t)m->size));
}

void kernel(const struct start_info *info)
{
    const struct module *modules = (const struct module *)(uint32_t)info->modules;
    const struct memory *map = (const struct memory *)(uint32_t)info->map;
    tell("magic", info->magic);
    tell("version", info->version);
    check_state();
    check("flags, reserved", info->flags == 0 && info->reserved == 0);
    tell_text("command line", (const char *)(uint32_t)info->command_line);
    for (uint32_t i = 0; i < info->module_count; i++)
        tell_module(&modules[i]);
    for (uint32_t i = 0; i < info->map_count; i++) {
        print("memory ");
        print_hex(map[i].address);
        print(" + ");
        print_hex(map[i].size);
        tell(" type", map[i].type);
    }
    tell("RSDP at", info->rsdp);
    print("end\n");
}
