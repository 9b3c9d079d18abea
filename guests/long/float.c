/* float.c - floating point at CPL 3, which every KVM runs. */
#include "minikvm.h"

#include "pi.h"

int main(void)
{
    printf("pi = 3.%08lu\n", user_call(pi, 100000));
    return 0;
}
