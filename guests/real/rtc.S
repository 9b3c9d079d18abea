/* rtc.S - a driver for the real-time clock (lua/minikvm/devices/rtc.lua): the date, an update, an
 * alarm and periodic interrupts on line 8, formats, memory. spec/dev/devices_spec.lua runs it, loaded at
 * 0x1000 so that the vectors below are free, and compares what it prints.
 *
 * MC146818 data sheet; the interrupt controllers are those of docs/abi.md. */
#include "real.inc"

#define INDEX 0x70
#define DATA 0x71
#define VECTOR 0x28 /* of IRQ 8 */
#define REG_A 0x0a
#define REG_B 0x0b
#define REG_C 0x0c
#define CENTURY 0x32
#define B_24H 0x02
#define B_BINARY 0x04
#define B_UPDATE 0x10
#define B_ALARM 0x20
#define B_PERIODIC 0x40
#define B_SET 0x80

.macro outb port:req, value:req
    mov al, \value
    out \port, al
.endm

.macro put index:req, value:req
    outb INDEX, \index
    outb DATA, \value
.endm

.macro get index:req
    outb INDEX, \index
    in al, DATA
.endm

.macro print text:req
    call print_text
    .asciz "\text"
.endm

    jmp main

puts_body

/* Prints the text behind the call. */
print_text:
    pop si
    call puts
    jmp si

/* Prints AL in hexadecimal. */
puthex:
    mov cl, al
    shr al, 4
    call 1f
    mov al, cl
    and al, 15
1:  add al, '0'
    cmp al, '9'
    jbe 2f
    add al, 'a' - '0' - 10
2:  putchar al
    ret

/* Prints register AL and then the character AH. */
field:
    mov ch, ah
    out INDEX, al
    in al, DATA
    call puthex
    putchar ch
    ret

/* Prints the date, which is not being updated: it was, or is set, this moment. */
date:
    get CENTURY
    call puthex
    mov ax, 0x2d09              /* "YEAR-" */
    call field
    mov ax, 0x2d08
    call field
    mov ax, 0x2007
    call field
    mov ax, 0x3a04
    call field
    mov ax, 0x3a02
    call field
    mov ax, 0x2000
    call field
    mov ax, 0x0a06              /* the weekday */
    jmp field

/* Sleeps until an interrupt whose register C has one of the bits in BH. */
wait_for:
    sti
    hlt
    cli
    test cs:[flags], bh
    jz wait_for
    mov al, cs:[flags]
    mov byte ptr cs:[flags], 0
    ret

handler:
    push ax
    get REG_C                   /* lowers the line */
    or cs:[flags], al
    inc byte ptr cs:[interrupts]
    outb 0xa0, 0x20
    outb 0x20, 0x20
    pop ax
    iret

flags:
    .byte 0
interrupts:
    .byte 0

/* IRQ 0 is vector 0x20, IRQ 8 is VECTOR, and only it and the cascade are on. */
init_interrupts:
    xor ax, ax
    mov es, ax
    mov word ptr es:[VECTOR * 4], offset handler
    mov es:[VECTOR * 4 + 2], cs
    outb 0x20, 0x11
    outb 0xa0, 0x11
    outb 0x21, 0x20
    outb 0xa1, VECTOR
    outb 0x21, 4
    outb 0xa1, 2
    outb 0x21, 1
    outb 0xa1, 1
    outb 0x21, 0xfb
    outb 0xa1, 0xfe
    ret

main:
    call init_interrupts

    print "update "             /* after an update there is time to read all of it */
    put REG_B, B_24H+B_UPDATE
    mov bh, B_UPDATE
    call wait_for
    call puthex
    putchar ' '
    call date

    print "alarm "              /* at 00:00:01, which the wildcard of the hour fits */
    put 1, 0x01
    put 3, 0x00
    put 5, 0xff
    put REG_B, B_24H+B_ALARM
    mov bh, B_ALARM
    call wait_for
    call puthex
    putchar ' '
    call date

    print "periodic"            /* the slowest rate: twice a second */
    get REG_C
    put REG_A, 0x2f
    mov byte ptr [interrupts], 0
    put REG_B, B_24H+B_PERIODIC
1:  mov bh, B_PERIODIC
    call wait_for
    cmp byte ptr [interrupts], 5
    jb 1b
    put REG_B, B_24H

    print "\nset "             /* 29 February 2096, 1:02:03 in the afternoon, by 12 hours */
    put REG_B, B_SET
    put CENTURY, 0x20
    put 9, 0x96
    put 8, 0x02
    put 7, 0x29
    put 4, 0x81
    put 2, 0x02
    put 0, 0x03
    call date                   /* it stands still */
    put REG_B, B_SET+B_24H
    put 4, 0x13
    put REG_B, B_24H
    print "24 hours "
    call date
    print "binary "
    put REG_B, B_24H+B_BINARY
    call date
    print "12 hours "
    put REG_B, 0
    call date

    print "in progress "        /* UIP rises before an update and falls after it */
1:  get REG_A
    test al, al
    jns 1b
2:  get REG_A
    test al, al
    js 2b
    get REG_C
    and al, B_UPDATE
    call puthex

    print "\nmemory "
    put 0x40, 0xa5
    get 0x40
    call puthex
    putchar ' '
    get 0xc0                    /* bit 7 is the NMI's */
    call puthex
    putchar ' '
    put REG_C, 0xff             /* read only */
    put 0x0d, 0
    get 0x0d
    call puthex
    putchar '\n'
    hlt
