/* abi.h - every number a guest can see, in one place.
 *
 * Only #defines of plain integers, so that C, preprocessed assembly (.S) and, through the build,
 * Lua (`require "minikvm.abi"`) read the same table. docs/abi.md explains them. */
#ifndef MK_ABI_H
#define MK_ABI_H

/* I/O ports */
#define MK_PORT_PIC1 0x20
#define MK_PORT_PIC2 0xa0
#define MK_PORT_ELCR 0x4d0
#define MK_PORT_PIT 0x40
#define MK_PORT_SYSB 0x61
#define MK_PORT_KBD_DATA 0x60
#define MK_PORT_KBD_STATUS 0x64
#define MK_PORT_DEBUGCON 0xe9
#define MK_PORT_EXIT 0xf4
#define MK_PORT_FILE 0x278
#define MK_PORT_FILE_BLOCK 0x27c
#define MK_PORT_UART 0x3f8
#define MK_PORT_HYPERCALL 0x500
#define MK_PORT_AGENT 0x508
#define MK_PORT_PCI_ADDRESS 0xcf8
#define MK_PORT_RESET 0xcf9
#define MK_PORT_PCI_DATA 0xcfc

/* Hypercall numbers: in AL of `out 0x500, al` */
#define MK_HC_EXIT 0x00
#define MK_HC_PUTCHAR 0x01
#define MK_HC_GETCHAR 0x02
#define MK_HC_WRITE 0x10
#define MK_HC_READ 0x11

/* Status in AH after `in ax, 0x500` that answers GETCHAR */
#define MK_GETCHAR_BYTE 0
#define MK_GETCHAR_NONE 1
#define MK_GETCHAR_EOF 2

/* Result of READ in EAX when no byte was stored */
#define MK_READ_EOF 0xffffffff
#define MK_READ_NONE 0xfffffffe

/* File port: operations, flags of OPEN, whence of SEEK, bytes of a request block */
#define MK_FILE_OP_OPEN 1
#define MK_FILE_OP_CLOSE 2
#define MK_FILE_OP_READ 3
#define MK_FILE_OP_WRITE 4
#define MK_FILE_OP_SEEK 5
#define MK_FILE_OP_STAT 6
#define MK_FILE_READ 0x01
#define MK_FILE_WRITE 0x02
#define MK_FILE_CREATE 0x04
#define MK_FILE_TRUNC 0x08
#define MK_FILE_APPEND 0x10
#define MK_FILE_SET 0
#define MK_FILE_CUR 1
#define MK_FILE_END 2
#define MK_FILE_BLOCK 40

/* Agent of Linux guests: the window in which questions and answers lie, their magic numbers
 * ("mkQ?", "mkA!"), and their kinds */
#define MK_AGENT_WINDOW 0xd0000
#define MK_AGENT_WINDOW_SIZE 0x10000
#define MK_AGENT_QUESTION 0x3f516b6d
#define MK_AGENT_ANSWER 0x21416b6d
#define MK_AGENT_READY 1
#define MK_AGENT_DATA 2
#define MK_AGENT_END 3
#define MK_AGENT_RUN 16
#define MK_AGENT_INPUT 17
#define MK_AGENT_FEED 18
#define MK_AGENT_READ 19
#define MK_AGENT_CREATE 20
#define MK_AGENT_WRITE 21
#define MK_AGENT_CLOSE 22
#define MK_AGENT_LOG 23
#define MK_AGENT_RENEW 24

#define MK_MAX_CPUS 64 /* vCPUs of one VM */

/* Real mode: vCPU i owns the window [i * size, (i + 1) * size); of more than four, less each, so
 * that all lie in the first MiB */
#define MK_REAL_WINDOW 0x40000
#define MK_REAL_SP 0xfff0

/* Protected, paged and long mode: RDI is the number of the vCPU, whose stack is so many bytes below
 * that of the one before */
#define MK_CPU_STACK 0x4000
#define MK_GDT_BASE 0x500
#define MK_IDT_BASE 0x600 /* 256 gates of 8 bytes, 128 of 16 */
#define MK_IDT_LONG_GATES 128
#define MK_RAM_LIST 0x540 /* list of RAM, to 0x57f */
#define MK_TSS_BASE 0x580
#define MK_BOOT_INFO 0xe00
#define MK_COMMAND_LINE 0xe40 /* to 0xfff */
#define MK_LOAD_BASE 0x1000
#define MK_PAGE_DIR 0x100000
#define MK_HIGH_BASE 0x80000000
#define MK_SEL_KCODE 0x08
#define MK_SEL_KDATA 0x10
#define MK_SEL_UCODE 0x18
#define MK_SEL_UDATA 0x20
#define MK_SEL_TSS 0x28

/* Boot information at MK_BOOT_INFO, physical address in EBX: magic, size of the block, bytes of
 * RAM, features, physical address of the NUL-terminated command line (0: none), number of ranges of
 * RAM, physical address of their list; seven u32. A range is u64 address, u64 size, u32 type. */
#define MK_RAM_ENTRY 20
#define MK_RAM_TYPE 1
#define MK_BOOT_MAGIC 0x49424b4d /* "MKBI" */
#define MK_BOOT_PAGING_NATIVE 0x01
#define MK_BOOT_INT_NATIVE 0x02
#define MK_BOOT_IRET_NATIVE 0x04
#define MK_BOOT_PIC 0x08
#define MK_BOOT_UART 0x10
#define MK_BOOT_DEBUGCON 0x20 /* bytes to port 0xe9 reach the console and are coalesced */

#endif
