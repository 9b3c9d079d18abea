/* sse.c - pi and a square root in floating point, at CPL 0: needs a KVM that runs SSE there.
 *
 * A paravirtual KVM emulates CPL 0 and ends this guest with reason "fault"; float.c, which does the
 * same at CPL 3, runs there too. The Makefile compiles what is listed in SSE with SSE. */
#include "minikvm.h"

#include "pi.h"

int main(void)
{
    printf("pi = 3.%08lu\n", pi(100000));
    return 0;
}
