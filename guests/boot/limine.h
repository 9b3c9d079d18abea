/* limine.h - the structures of the Limine boot protocol that limine.c uses: PROTOCOL.md of
 * limine-protocol, "Feature List" and "File Structure", base revision 6. */
#ifndef LIMINE_H
#define LIMINE_H

#include <stdint.h>

struct request {
    uint64_t id[4], revision;
    void *response;
    uint64_t more[3]; /* what a feature's request has besides */
};

struct file {
    uint64_t revision;
    uint8_t *address;
    uint64_t size;
    char *path, *string;
    uint32_t media_type, unused, tftp_ip, tftp_port, partition, mbr_id;
    uint8_t uuids[3][16];
};

struct memory {
    uint64_t base, length, type;
};

enum { USABLE, RESERVED, ACPI_RECLAIMABLE, ACPI_NVS, BAD, RECLAIMABLE, KERNEL, FRAMEBUFFER };

struct framebuffer {
    uint32_t *address;
    uint64_t width, height, pitch;
    uint16_t bpp;
    uint8_t model, colours[6], unused[7]; /* size and shift of red, green, blue */
    uint64_t edid_size;
    void *edid;
    uint64_t mode_count;
    struct mode {
        uint64_t pitch, width, height;
    } **modes;
};

/* Responses: the revision, then these. */
struct list {
    uint64_t revision, count;
    void **items;
};

struct texts {
    uint64_t revision;
    char *first, *second;
};

struct numbers {
    uint64_t revision, first, second;
};

#endif
