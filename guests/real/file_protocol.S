/* file_protocol.S - uses a file protocol of its own, which scripts/file_protocol.lua serves.
 *
 * Names end with a NUL, and after every byte that is transferred a status byte is read: 1 when it
 * was, 0 when not. Writes "written by another protocol", reads it back and prints it. Exit codes
 * say which step failed. The commands, all bytes, to and from port 0x278:
 *   1, mode ('r' or 'w'), name, NUL     then IN: a descriptor, or 0xff
 *   2, descriptor                       then IN: a status
 *   3, descriptor                       then IN: a byte, IN: a status, which is 0 at the end
 *   4, descriptor, byte                 then IN: a status */
#include "real.inc"

    jmp main

/* Sends AL. */
send:
    mov dx, MK_PORT_FILE
    out dx, al
    ret

/* receive: AL is the next byte. */
receive:
    mov dx, MK_PORT_FILE
    in al, dx
    ret

/* open: mode in BL; AL is the descriptor, also kept at [fd]. */
open:
    mov al, 1
    call send
    mov al, bl
    call send
    mov si, offset name
1:  lodsb
    call send
    test al, al
    jnz 1b
    call receive
    mov [fd], al
    ret

/* command: number in AL, then the descriptor. */
command:
    call send
    mov al, [fd]
    jmp send

main:
    mov bl, 'r'             /* not there yet */
    call open
    mov bl, 1
    cmp al, 0xff
    jne failed
    mov bl, 'w'
    call open
    mov bl, 2
    cmp al, 0xff
    je failed
    mov si, offset text
1:  mov al, 4
    call command
    lodsb
    call send
    call receive
    mov bl, 3
    cmp al, 1
    jne failed
    cmp byte ptr [si], 0
    jne 1b
    mov al, 2
    call command
    call receive
    mov bl, 4
    cmp al, 1
    jne failed

    mov bl, 'r'
    call open
    mov bl, 5
    cmp al, 0xff
    je failed
2:  mov al, 3
    call command
    call receive
    mov cl, al
    call receive
    test al, al
    jz 3f
    putchar cl
    jmp 2b
3:  mov al, 2
    call command
    call receive
    putchar '\n'
    exit 0
failed:
    hypercall MK_HC_EXIT

name:
    .asciz "other.txt"
text:
    .asciz "written by another protocol"
fd: .byte 0
