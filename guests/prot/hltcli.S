/* hltcli.S - halts with interrupts off while the timer runs: nothing wakes it, the run ends. */
#include "prot.inc"

    gate IRQ_BASE, tick
    pic_init 0x01
    pit_init 11932
    hlt
    print "woken\n"
tick:
    exit 1

    puts_body
