/* main.c - starts the parts in order, makes the guests, and lets them run until all have ended. */
#include "hyper.h"

void main(const void *tree) __attribute__((noreturn));
void host_fault(uint64_t cause, uint64_t address, uint64_t pc) __attribute__((noreturn));

extern const char hypervisor_end[];

/* Called by host_trap: the hypervisor cannot go on. */
void host_fault(uint64_t cause, uint64_t address, uint64_t pc)
{
    if (cause == 2 && csr_read(sie) == 0) /* in hart_init() */
        say("this hart has no hypervisor extension (QEMU: -cpu rv64,h=true)");
    else
        say("cannot go on: cause %lu at 0x%lx, address 0x%lx", cause, pc, address);
    firmware_shutdown();
}

/* How many time slices each guest may use up: the only option there is. */
static uint64_t slices_of(const char *options)
{
    uint64_t slices = begins_with(options, "slices=") ? digits_of(options + 7, 10) : 0;

    if (!*options)
        return NEVER;
    if (!slices) {
        say("does not know the option %s (QEMU: -append slices=N)", options);
        firmware_shutdown();
    }
    return slices;
}

void main(const void *tree)
{
    struct machine machine = { .options = "" };
    uint64_t most_slices, at, size;
    const char *name;
    const void *image;

    hart_init();
    tree_read(tree, &machine);
    most_slices = slices_of(machine.options);
    at = machine.archive;
    pages_init((uint64_t)hypervisor_end, machine.archive); /* the tree may be in there */
    while ((image = archive_next(&at, machine.archive_end, &name, &size)))
        guest_add(name, image, size);
    if (!guest_at(0))
        say("there are no guests to run (QEMU: -initrd ARCHIVE.tar)");
    schedule(most_slices);
    firmware_shutdown();
}
