/* hctest.S - exercises every hypercall, the debug console and the UART, in every width.
 *
 * Wants the console input "abcdef" and no more. Prints a line "PASS name" or "FAIL name: what came
 * instead" a check, then the totals; the exit code is the number of failures. Output that cannot
 * be read back names the way it was written: who runs this compares it with hctest.expect.
 * Registers of the UART: 16550A data sheet. */
#include "real.inc"

#define UART_DATA (MK_PORT_UART + 0) /* with DLAB the divisor, 16 bits */
#define UART_IIR (MK_PORT_UART + 2)  /* written: FCR */
#define UART_LCR (MK_PORT_UART + 3)
#define UART_MCR (MK_PORT_UART + 4)
#define UART_LSR (MK_PORT_UART + 5)
#define UART_MSR (MK_PORT_UART + 6)
#define UART_SCR (MK_PORT_UART + 7)
#define LCR_8N1 0x03
#define LCR_DLAB 0x80
#define MCR_LOOP 0x10
#define LSR_DATA 0x01
#define LSR_EMPTY 0x60 /* holding register and shift register */

#define UNSERVED 0x3000

/* One check: is EAX \want? The name stands behind the call. The others look at AX or AL only. */
.macro check want:req, name:req
    mov ecx, \want
    call check_eax
    .asciz "\name"
.endm

.macro check16 want:req, name:req
    mov cx, \want
    call check_ax
    .asciz "\name"
.endm

.macro check8 want:req, name:req
    mov cx, \want
    call check_al
    .asciz "\name"
.endm

.macro outb port:req, value:req
    mov dx, \port
    mov al, \value
    out dx, al
.endm

/* Hypercall \nr with a block of memory: EBX is a guest-physical address, so add the window. */
.macro memory_call nr:req, address:req, length:req
    mov bx, cs
    movzx ebx, bx
    shl ebx, 4
    add ebx, offset \address
    mov ecx, \length
    hypercall \nr
.endm

/* Lengths must be known before they are used, or an operand would be taken for an address. */
    jmp main
write_text:
    .ascii "by write\n"
    .equ write_length, . - write_text
debug_text:
    .ascii "by debug console\n"
    .equ debug_length, . - debug_text
uart_text:
    .ascii "by uart\n"
    .equ uart_length, . - uart_text
buffer:
    .skip 16
    .equ buffer_length, . - buffer

main:
/* ---- output ---- */
    putchar '1'
    mov bl, '2'
    mov dx, MK_PORT_HYPERCALL
    mov ax, 0xff00 + MK_HC_PUTCHAR      /* the number is AL, whatever lies above it */
    out dx, ax
    mov bl, '4'
    mov eax, 0xffffff00 + MK_HC_PUTCHAR
    out dx, eax
    mov si, offset putchar_text
    call puts

    memory_call MK_HC_WRITE, write_text, write_length
    in eax, dx
    check write_length, "write count, in eax"
    memory_call MK_HC_WRITE, write_text, write_length
    in ax, dx
    check16 write_length, "write count, in ax"
    memory_call MK_HC_WRITE, write_text, write_length
    in al, dx
    check8 write_length, "write count, in al"
    memory_call MK_HC_WRITE, write_text, 0
    in eax, dx
    check 0, "write of nothing"

    outb MK_PORT_DEBUGCON, '>'
    mov si, offset debug_text
    mov cx, debug_length
    rep outsb
    outb UART_LCR, LCR_8N1
    outb UART_DATA, '>'
    mov si, offset uart_text
    mov cx, uart_length
    rep outsb

/* ---- input; EAX is preset so that a check sees what an IN leaves alone ---- */
    mov dx, MK_PORT_HYPERCALL
    mov al, 0x55
    in al, dx
    check8 0, "nothing pending, in al"
    mov dx, MK_PORT_HYPERCALL
    mov ax, 0x5555
    in ax, dx
    check16 0, "nothing pending, in ax"
    mov dx, MK_PORT_HYPERCALL
    mov eax, 0x55555555
    in eax, dx
    check 0, "nothing pending, in eax"

    call getchar
    check16 'a' + (MK_GETCHAR_BYTE << 8), "getchar, in ax"
    mov dx, MK_PORT_HYPERCALL
    in ax, dx
    check16 0, "getchar answers once"
    hypercall MK_HC_GETCHAR
    mov ah, 0x55
    in al, dx
    check16 'b' + 0x5500, "getchar, in al leaves ah"

    mov byte ptr [buffer + 1], 0x55
    mov ecx, 1
    call read
    check 1, "read of one byte"
    mov ax, [buffer]
    check16 'c' + 0x5500, "read stores that byte only"
    in al, MK_PORT_DEBUGCON
    check8 'd', "debug console, in al"
    mov ecx, buffer_length
    call read
    check 2, "read takes what is there"
    mov ax, [buffer]
    check16 'e' + ('f' << 8), "read stores in order"

drain:                                  /* input of another length fails above, but ends here */
    mov ecx, buffer_length
    call read
    lea edx, [eax - 1]                  /* a count of 0 must not keep us here */
    cmp edx, buffer_length
    jb drain
    check MK_READ_EOF, "end of input, read"
    call getchar
    shr ax, 8
    check8 MK_GETCHAR_EOF, "end of input, getchar in ax"
    hypercall MK_HC_GETCHAR
    in al, dx
    check8 0xff, "end of input, getchar in al"

/* ---- UART; after the input, which a UART may show in its own registers ---- */
    outb UART_SCR, 0x5a
    mov al, 0
    in al, dx
    check8 0x5a, "uart scratch"
    mov dx, UART_LCR
    in al, dx
    check8 LCR_8N1, "uart line control"
    mov dx, UART_LSR
    in al, dx
    and al, LSR_EMPTY
    check8 LSR_EMPTY, "uart transmitter empty"

    outb UART_LCR, LCR_DLAB + LCR_8N1
    outb UART_DATA, 0x34
    outb UART_DATA + 1, 0x12
    mov dx, UART_DATA
    in ax, dx
    check16 0x1234, "uart divisor, in ax"
    mov dx, UART_DATA
    mov ax, 0x0001                      /* 115200 baud */
    out dx, ax
    in ax, dx
    check16 0x0001, "uart divisor, out ax"
    outb UART_LCR, LCR_8N1
    mov dx, UART_DATA + 1
    in al, dx
    check8 0, "uart divisor is not ier"

    outb UART_IIR, 0x01
    in al, dx
    and al, 0xc0
    check8 0xc0, "uart fifo on"
    outb UART_IIR, 0x00
    in al, dx
    check8 0x01, "uart fifo off, no interrupt"

    outb UART_MCR, MCR_LOOP
    outb UART_DATA, 'L'                 /* must come back, and not be printed */
    mov cx, 1000                        /* a transmitter may take its time */
1:  mov dx, UART_LSR
    in al, dx
    test al, LSR_DATA
    loopz 1b
    and al, LSR_DATA
    check8 LSR_DATA, "uart loopback, data ready"
    mov dx, UART_DATA
    in al, dx
    check8 'L', "uart loopback, data"
    mov dx, UART_LSR
    in al, dx
    and al, LSR_DATA
    check8 0, "uart loopback, data taken"
    outb UART_MCR, MCR_LOOP + 0x0a      /* RTS is seen as CTS, OUT2 as DCD */
    mov dx, UART_MSR
    in al, dx
    and al, 0xf0
    check8 0x90, "uart loopback, modem lines"
    outb UART_MCR, 0

/* ---- wide accesses to byte ports, string input, ports nobody serves ---- */
    mov dx, UART_MSR                    /* read-only, so only the high byte counts */
    mov ax, 0xa5ff
    out dx, ax
    mov dx, UART_SCR
    in al, dx
    check8 0xa5, "out ax to two ports"
    mov dx, UART_MCR
    mov eax, 0xc3ffff00                 /* MCR, LSR, MSR, scratch */
    out dx, eax
    in eax, dx
    and eax, 0xff0060ff
    check 0xc3006000, "in and out eax to four ports"
    mov dx, UART_SCR
    in ax, dx
    check16 0xffc3, "in ax past the uart"

    mov dx, UART_SCR
    mov di, offset buffer
    mov cx, 4
    rep insb
    mov eax, [buffer]
    check 0xc3c3c3c3, "rep insb"
    mov dx, UART_MSR
    mov si, offset words
    mov cx, 3
    rep outsw
    mov dx, UART_SCR
    in al, dx
    check8 0x33, "rep outsw to two ports"

    mov dx, UNSERVED
    mov al, 0
    in al, dx
    check8 0xff, "unserved port, in al"
    mov dx, UNSERVED
    mov ax, 0
    in ax, dx
    check16 0xffff, "unserved port, in ax"
    mov dx, UNSERVED
    mov eax, 0
    in eax, dx
    check 0xffffffff, "unserved port, in eax"

/* ---- totals ---- */
    mov ax, [passed]
    call putdec
    mov si, offset passed_text
    call puts
    mov ax, [failed]
    call putdec
    mov si, offset failed_text
    call puts
    exit [failed]

/* Counts and reports whether AL is CX, AX is CX or EAX is ECX; the name follows the call, up to
 * a NUL. */
check_al:
    movzx ax, al
check_ax:
    movzx eax, ax
    movzx ecx, cx
check_eax:
    pop si
    cmp eax, ecx
    mov edi, eax
    push si
    je 1f
    inc word ptr [failed]
    mov si, offset fail_text
    call puts
    pop si
    call puts
    push si
    mov si, offset got_text
    call puts
    call puthex
    jmp 2f
1:  inc word ptr [passed]
    mov si, offset pass_text
    call puts
    pop si
    call puts
    push si
2:  putchar '\n'
    ret                                 /* behind the name */

/* puthex: prints EDI as eight hexadecimal digits. */
puthex:
    mov cx, 8
1:  rol edi, 4
    mov ax, di
    and al, 0x0f
    cmp al, 10
    jb 2f
    add al, 'a' - '0' - 10
2:  add al, '0'
    putchar al
    loop 1b
    ret

/* getchar: waits for a byte or the end of input; AX is the 16-bit answer. */
getchar:
    hypercall MK_HC_GETCHAR
    in ax, dx
    cmp ah, MK_GETCHAR_NONE
    je getchar
    ret

/* read: takes up to ECX bytes to the buffer, waiting for the first; EAX is the answer. */
read:
    memory_call MK_HC_READ, buffer, ecx
    in eax, dx
    cmp eax, MK_READ_NONE
    je read
    ret

    puts_body
    putdec_body

putchar_text:
    .asciz " by putchar of 1, 2 and 4 bytes\n"
pass_text:
    .asciz "PASS "
fail_text:
    .asciz "FAIL "
got_text:
    .asciz ": 0x"
passed_text:
    .asciz " passed, "
failed_text:
    .asciz " failed\n"

words:
    .word 0x1100, 0x2200, 0x3300        /* low bytes go to MSR, high ones to the scratch register */
passed:
    .word 0
failed:
    .word 0
