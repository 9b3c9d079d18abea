/* lib_coverage.c - which blocks of a guest ran, for vm:coverage{ map = true }: what gcc calls at
 * the beginning of each when the guest is compiled with -fsanitize-coverage=trace-pc.
 *
 * A byte of the map stands for each address of code, modulo the map's size: the code must not be
 * larger than that. Compile this file for any guest, of 32 or 64 bits, without the option, and with
 * -DMINIKVM_COVERAGE_SIZE=, a power of two, where there is more code than 64 KiB. It needs nothing:
 * no stack but for the call, no interrupts off, no lock. Storing the same byte twice is no race. */
#include <stdint.h>

#ifndef MINIKVM_COVERAGE_SIZE
#define MINIKVM_COVERAGE_SIZE 0x10000
#endif

void __sanitizer_cov_trace_pc(void);

/* Its symbol tells minikvm where it is and how large. */
uint8_t minikvm_coverage_map[MINIKVM_COVERAGE_SIZE];

_Static_assert(!(MINIKVM_COVERAGE_SIZE & (MINIKVM_COVERAGE_SIZE - 1)), "a power of two");

void __sanitizer_cov_trace_pc(void)
{
    uintptr_t pc = (uintptr_t)__builtin_return_address(0);
    minikvm_coverage_map[pc & (MINIKVM_COVERAGE_SIZE - 1)] = 1;
}
