/* hello.S - prints a greeting in 32-bit protected mode, an exit a character, and halts. */
#include "prot.inc"

    print "Hello, 32-bit KVM!\n"
    hlt

    puts_body
