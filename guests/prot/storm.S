/* storm.S - an interrupt storm: the timer at its absurdest rate, a reload value of 1. The main
 * program must still get its work done, and the ticks must still come. */
#include "prot.inc"

#define TICKS 300
#define ROUNDS 100000

    gate IRQ_BASE, tick
    pic_init 0x01
    pit_init 1
    sti
    mov ecx, ROUNDS
    xor eax, eax
1:  add eax, ecx
    loop 1b
    mov ebx, eax
2:  cmp dword ptr [ticks], TICKS
    jb 2b
    cli
    print "sum "
    printhex ebx
    print " in the storm\n"
    exit 0

tick:
    inc dword ptr [ticks]
    push eax
    pic_eoi
    pop eax
    iret

    puts_body
    puthex_body

.data
ticks:
    .long 0
