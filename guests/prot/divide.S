/* divide.S - a divide error whose handler says where it was and ends the run. */
#include "prot.inc"

    gate 0, divide_error
    xor ecx, ecx
    mov eax, 1
    cdq
    div ecx
    exit 0

divide_error:
    print "divide error at "
    printhex [esp]      /* a fault: EIP is that of the DIV */
    print "\n"
    exit 3

    puts_body
    puthex_body
