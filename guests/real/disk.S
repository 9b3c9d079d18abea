/* disk.S - a boot disk that uses the services of a PC's BIOS: its own sectors by cylinder, head and
 * sector and by number, screen, keys, time, memory map. Filled up with zeros to a diskette's size, or
 * any other, it is one. spec/dev/bios_spec.lua runs it under the services in Lua and under SeaBIOS.
 *
 * IBM PC/AT Technical Reference, "BIOS"; Enhanced Disk Drive Specification 3.0; ACPI 6.4, 15.1. */
#include "abi.h"

.intel_syntax noprefix
.code16
.text
.globl _start

#define SECTORS 8      /* of the program, the first one included */
#define BUFFER 0x2000  /* offset from the segment */
#define CHECKED 20     /* number of the sector that is written; it is in the first track but one */
#define MARK 0x4b4d    /* "MK" */

.macro bios vector:req, call:req
    mov ah, \call
    int \vector
.endm

.macro say text:req
    call print_text
    .asciz "\text"
.endm

/* Prints "no" and ends when the carry is set. */
.macro need
    jc fail
.endm

_start:
    ljmp 0x7c0, offset start /* offsets count from here */
start:
    mov ax, cs
    mov ds, ax
    mov es, ax
    cld
    mov drive, dl
    mov ax, 0x0200 | (SECTORS - 1) /* the rest of the program: cylinder 0, head 0, sector 2 on */
    mov bx, 512
    mov cx, 0x0002
    mov dh, 0
    int 0x13
    need
    jmp program

/* Prints the text behind the call. */
print_text:
    pop si
1:  lodsb
    test al, al
    jz 2f
    mov bx, 7
    bios 0x10, 0x0e
    jmp 1b
2:  jmp si

fail:
    push ax
    say "failed "
    pop ax
    mov al, ah
    call print_hex
    mov al, 1
    out MK_PORT_EXIT, al

/* Prints AL as two digits. */
print_hex:
    push ax
    shr al, 4
    call print_digit
    pop ax
print_digit:
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe 1f
    add al, 'a' - '9' - 1
1:  mov bx, 7
    bios 0x10, 0x0e
    ret

drive: .byte 0

.org 510
    .word 0xaa55

/* --- sector 2 and on --- */

program:
    say "drive "
    mov al, drive
    call print_hex
    call print_geometry
    call write_and_read
    test byte ptr drive, 0x80
    jz 1f
    call read_by_number
1:  call beyond_the_end
    call move_cursor
    call memory_map
    call pass_time
    call read_line
    mov al, 0
    out MK_PORT_EXIT, al
    hlt

/* Heads and sectors: the last ones by AH=08h, which is asked with ES:DI = 0. */
print_geometry:
    push es
    xor di, di
    mov es, di
    mov dl, drive
    bios 0x13, 0x08
    pop es
    need
    mov heads, dh
    and cl, 0x3f
    mov sectors, cl
    say " heads "
    mov al, heads
    inc al
    call print_hex
    say " sectors "
    mov al, sectors
    call print_hex
    say "\r\n"
    ret

/* CX and DH of sector CHECKED, which lies in the first cylinder. */
where:
    mov ax, CHECKED
    div byte ptr sectors
    mov dh, al
    mov cl, ah
    inc cl
    mov ch, 0
    mov dl, drive
    ret

write_and_read:
    mov word ptr [BUFFER], MARK
    mov bx, BUFFER
    call where
    mov ax, 0x0301
    int 0x13
    need
    mov word ptr [BUFFER], 0
    call where
    mov ax, 0x0201
    int 0x13
    need
    cmp word ptr [BUFFER], MARK
    stc
    jne fail
    say "written and read\r\n"
    ret

/* The same sector by its number, in a packet. */
read_by_number:
    mov bx, 0x55aa
    mov dl, drive
    bios 0x13, 0x41
    need
    cmp bx, 0xaa55
    jne fail
    mov word ptr [BUFFER], 0
    mov si, offset packet
    mov dl, drive
    bios 0x13, 0x42
    need
    cmp word ptr [BUFFER], MARK
    jne fail
    say "read by number\r\n"
    ret

packet:
    .byte 16, 0
    .word 1, BUFFER, 0x7c0
    .quad CHECKED

/* A sector that no track has is an error, not the end. */
beyond_the_end:
    mov bx, BUFFER
    mov cx, 0x003f
    mov dh, heads
    inc dh
    mov dl, drive
    mov ax, 0x0201
    int 0x13
    mov ax, 0
    jnc fail
    say "an error is an error\r\n"
    ret

/* The cursor goes where it is told, and a character is read back from there. */
move_cursor:
    mov bh, 0
    bios 0x10, 0x03
    push dx
    mov dx, 0x0a46 /* row 10, column 70 */
    bios 0x10, 0x02
    mov ax, 0x092a /* '*', green */
    mov bx, 0x0002
    mov cx, 1
    int 0x10
    bios 0x10, 0x08
    mov bp, ax
    bios 0x10, 0x03
    mov cx, dx
    pop dx
    push cx
    bios 0x10, 0x02
    pop cx
    cmp cx, 0x0a46
    jne fail
    cmp bp, 0x022a
    jne fail
    say "\r\ncursor\r\n"
    ret

/* Where RAM ends, of all that there is. */
memory_map:
    xor ebx, ebx
1:  mov eax, 0xe820
    mov ecx, 20
    mov edx, 0x534d4150
    mov di, BUFFER
    int 0x15
    need
    cmp dword ptr [BUFFER + 16], 1
    jne 2f
    mov eax, [BUFFER]
    add eax, [BUFFER + 8]
    mov ram, eax
2:  test ebx, ebx
    jnz 1b
    say "ram "
    mov al, ram[3]
    call print_hex
    mov al, ram[2]
    call print_hex
    say "0000\r\n"
    ret

/* Ticks go on, and a wait ends. */
pass_time:
    bios 0x1a, 0x00
    mov bp, dx
1:  hlt
    bios 0x1a, 0x00
    cmp dx, bp
    je 1b
    xor cx, cx
    mov dx, 20000 /* microseconds */
    bios 0x15, 0x86
    need
    bios 0x1a, 0x04
    need
    cmp ch, 0x20
    jne fail
    say "time\r\n"
    ret

/* Keys, until the return key. */
read_line:
    say "keys: "
1:  bios 0x16, 0x00
    cmp al, 13
    je 2f
    mov bx, 7
    bios 0x10, 0x0e
    jmp 1b
2:  mov al, ah
    say " "
    bios 0x16, 0x01
    mov al, 0x1c /* its scancode */
    call print_hex
    say "\r\ndone\r\n"
    ret

heads: .byte 0
sectors: .byte 0
ram: .long 0

.org 512 * 64 /* a disk by itself, of 32 KiB */
