/* crt0.S - the start of every program: the header that the kernel reads, and the call of main.
 * The numbers come from user.lds; struct image in kernel/exec.c describes them. */
.intel_syntax noprefix
#include "syscall.h"

.section .text.start, "ax"
    .long IMAGE_MAGIC, image_text_size, image_file_size, image_mem_size, _start

.global _start
_start:
    call main
    push eax
    call exit
