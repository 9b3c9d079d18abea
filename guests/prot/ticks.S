/* ticks.S - counts 20 ticks of the timer at 100 Hz, asleep in HLT between them. */
#define PAGED
#include "prot.inc"

    gate IRQ_BASE, tick
    pic_init 0x01
    pit_init 11932
    sti
1:  hlt
    cmp dword ptr [ticks], 20
    jb 1b
    cli
    mov eax, [ticks]
    call putdec
    print " ticks\n"
    exit 0

tick:
    cmp dword ptr [ticks], 20   # late ones are not counted: the carry says "below"
    adc dword ptr [ticks], 0
    push eax
    pic_eoi
    pop eax
    iret

    puts_body
    putdec_body

.data
ticks:
    .long 0
