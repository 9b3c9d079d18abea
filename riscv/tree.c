/* tree.c - the device tree: what QEMU's command line has put into this machine.
 *
 * A flattened device tree is a header of big-endian words and a row of tokens: nodes begin and end,
 * properties are a length, the offset of their name, and bytes (Devicetree Specification 0.4,
 * chapter 5). Three properties are wanted. QEMU and OpenSBI made the tree, and are trusted. */
#include "hyper.h"

enum { BEGIN_NODE = 1, PROPERTY = 3, END = 9 }; /* the others have nothing behind them */

struct header {
    uint32_t magic, size, structure, strings;
};

static uint32_t big32(const void *bytes)
{
    const uint8_t *b = bytes;

    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* A number of 4 or 8 bytes. */
static uint64_t number(const char *bytes, uint32_t length)
{
    return length == 4 ? big32(bytes) : (uint64_t)big32(bytes) << 32 | big32(bytes + 4);
}

bool begins_with(const char *text, const char *word)
{
    while (*word && *text == *word)
        text++, word++;
    return !*word;
}

uint64_t digits_of(const char *text, unsigned base)
{
    uint64_t value = 0;

    for (; *text >= '0' && *text < '0' + (int)base; text++)
        value = value * base + (uint64_t)(*text - '0');
    return value;
}

static void property(const char *node, const char *name, const char *value, uint32_t length,
                     struct machine *machine)
{
    if (!begins_with(node, "chosen"))
        return;
    if (begins_with(name, "linux,initrd-start"))
        machine->archive = number(value, length);
    else if (begins_with(name, "linux,initrd-end"))
        machine->archive_end = number(value, length);
    else if (begins_with(name, "bootargs"))
        machine->options = value;
}

void tree_read(const void *tree, struct machine *machine)
{
    const struct header *header = tree;
    const char *at = (const char *)tree + big32(&header->structure), *node = "";
    const char *strings = (const char *)tree + big32(&header->strings);

    for (uint32_t token; (token = big32(at)) != END;) {
        at += 4;
        if (token == BEGIN_NODE) {
            for (node = at; *at; at++)
                ;
            at++;
        } else if (token == PROPERTY) {
            property(node, strings + big32(at + 4), at + 8, big32(at), machine);
            at += 8 + big32(at);
        }
        at = (const char *)(((uintptr_t)at + 3) & ~3ul);
    }
}
