/* hello.c - prints a line and halts. */
#include "minikvm.h"

int main(void)
{
    puts("Hello, KVM!\n");
    halt();
}
