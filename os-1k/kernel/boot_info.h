/* boot_info.h - what the VMM tells the kernel: five words, whose physical address is in EBX. */
#ifndef BOOT_INFO_H
#define BOOT_INFO_H

#define BOOT_MAGIC 0x49424b4d /* "MKBI" */

/* bits of `features` */
#define BOOT_PAGING_NATIVE 0x01 /* the host's KVM runs 32-bit paging itself */
#define BOOT_INT_NATIVE 0x02    /* ... and `int n` */
#define BOOT_IRET_NATIVE 0x04   /* ... and `iret` */
#define BOOT_PIC 0x08           /* there are a PIC and a PIT */
#define BOOT_UART 0x10          /* the console is the UART */
#define BOOT_DEBUGCON 0x20      /* bytes to port 0xe9 reach the console, without an exit each */

#ifndef __ASSEMBLER__
#include <stdint.h>

struct boot_info {
    uint32_t magic;
    uint32_t size;         /* of this block in bytes: a later version may be longer */
    uint32_t ram_bytes;
    uint32_t features;
    uint32_t command_line; /* physical address of a NUL-terminated string, 0 for none */
};
#endif
#endif
