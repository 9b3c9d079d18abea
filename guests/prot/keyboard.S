/* keyboard.S - echoes what is typed on the keyboard (i8042, IRQ 1, scancode set 1) until Enter or
 * Esc, then prints it all. Shift works for letters and makes ! and ? of 1 and /. */
#include "prot.inc"

#define ESC 0x01
#define ENTER 0x1c
#define LEFT_SHIFT 0x2a
#define RIGHT_SHIFT 0x36
#define RELEASED 0x80
#define ROOM 64

    gate (IRQ_BASE + 1), key
    pic_init 0x02
    print "ready\n"
    sti
1:  hlt
    cmp byte ptr [done], 0
    je 1b
    cli
    print "\ntyped: "
    mov esi, offset text
    call puts
    print "\n"
    exit 0

key:
    pushad
    xor eax, eax
    in al, MK_PORT_KBD_DATA
    mov ecx, eax
    pic_eoi
    mov eax, ecx
    and al, 0xff - RELEASED
    cmp al, LEFT_SHIFT
    je shift
    cmp al, RIGHT_SHIFT
    je shift
    test cl, RELEASED
    jnz 2f
    cmp al, ENTER
    je enter
    cmp al, ESC
    je enter
    cmp al, offset map_end - map
    jae 2f
    cmp byte ptr [shifted], 0
    je 1f
    add eax, offset map_end - map
1:  mov bl, [map + eax]
    test bl, bl
    jz 2f
    mov ecx, [length]
    cmp ecx, ROOM
    jae 2f
    mov [text + ecx], bl
    inc dword ptr [length]
    putchar bl
2:  popad
    iret
shift:
    test cl, RELEASED
    setz [shifted]
    popad
    iret
enter:
    mov byte ptr [done], 1
    popad
    iret

    puts_body

.data
map: /* from scancode 0 on; NUL where there is no character */
    .ascii "\0\0001234567890-=\0\0qwertyuiop[]\0\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 "
map_end:
    .ascii "\0\0!@#$%^&*()_+\0\0QWERTYUIOP{}\0\0ASDFGHJKL:\"~\0|ZXCVBNM<>?\0*\0 "
length:
    .long 0
text:
    .fill ROOM + 1
shifted:
    .byte 0
done:
    .byte 0
