/* test_instruction.c - which memory an instruction accesses, as data: no KVM, no Lua. Encodings are
 * written out from the Intel SDM, volume 2. */
#include "debug/instruction.h"
#include "tap.h"

#include <stdio.h>
#include <string.h>

#define RIP 0x1000
#define LENGTH(code) (sizeof(code) - 1)

static struct kvm_sregs mode(unsigned bits)
{
    struct kvm_sregs s = { .efer = MK_EFER_LMA };
    s.cs.l = bits == 64;
    s.cs.db = bits == 32;
    return s;
}

/* "w8 30000 r4 5000": each operand's kind, size and address, in the order that they are told. */
static void accesses(unsigned bits, const char *code, size_t length, const char *want,
                     const char *name)
{
    struct kvm_regs regs = { .rip = RIP,
                             .rax = 0x100,
                             .rbx = 0x2000,
                             .rsi = 0x3000,
                             .rdi = 0x4000,
                             .rsp = 0x8000,
                             .r9 = 0x9000 };
    struct kvm_sregs s = mode(bits);
    struct mk_operand list[MK_OPERANDS];
    unsigned n = mk_operands((const uint8_t *)code, (unsigned)length, &regs, &s, list);
    char have[200] = "";
    for (unsigned i = 0; i < n; i++)
        snprintf(have + strlen(have), sizeof(have) - strlen(have), "%s%c%u %llx", i ? " " : "",
                 list[i].write ? 'w' : 'r', list[i].size, (unsigned long long)list[i].linear);
    if (!tap_ok(strcmp(have, want) == 0, name))
        printf("# %s, not %s\n", have, want);
}

#define TELLS(bits, code, want, name) accesses(bits, code, LENGTH(code), want, name)

static void test_one_byte(void)
{
    TELLS(64, "\x48\x89\x03", "w8 2000", "mov [rbx], rax");
    TELLS(32, "\x8b\x04\x9d\0\x10\0\0", "r4 9000", "mov eax, [ebx * 4 + 0x1000]");
    TELLS(16, "\x8b\x00", "r2 5000", "mov ax, [bx + si]");
    TELLS(64, "\x48\x8d\x03", "", "lea rax, [rbx]");
    TELLS(64, "\xa4", "r1 3000 w1 4000", "movsb");
    TELLS(64, "\x50", "w8 7ff8", "push rax");
    TELLS(64, "\xff\x33", "r8 2000 w8 7ff8", "push qword [rbx]");
    TELLS(32, "\xff\x33", "r4 2000 w4 7ffc", "push dword [ebx]");
}

static void test_relative(void)
{
    TELLS(64, "\x8b\x05\0\x10\0\0", "r4 2006", "mov eax, [rip + 0x1000]");
    TELLS(64, "\xc7\x05\0\x10\0\0\1\0\0\0", "w4 200a", "behind an immediate operand of 4 bytes");
    TELLS(64, "\x66\xc7\x05\0\x10\0\0\1\0", "w2 2009", "of 2");
    TELLS(64, "\x0f\xc6\x05\0\x10\0\0\1", "r16 2008", "shufps xmm0, [rip + 0x1000], 1");
    TELLS(64, "\x66\x0f\x3a\x0f\x05\0\x10\0\0\1", "r16 200a", "palignr xmm0, [rip + 0x1000], 1");
}

static void test_maps(void)
{
    TELLS(64, "\x0f\xb6\x03", "r16 2000", "movzx eax, byte [rbx]");
    TELLS(64, "\x0f\x38\xf0\x03", "r16 2000", "movbe eax, [rbx]");
    TELLS(64, "\x0f\x38\xf1\x03", "w16 2000", "movbe [rbx], eax");
    TELLS(64, "\xf2\x0f\x38\xf1\x03", "r16 2000", "crc32 eax, dword [rbx]");
    TELLS(64, "\x66\x0f\x3a\x16\x03\x01", "w16 2000", "pextrd [rbx], xmm0, 1");
}

static void test_vex(void)
{
    TELLS(64, "\xc5\xfc\x10\x03", "r32 2000", "vmovups ymm0, [rbx]");
    TELLS(64, "\xc5\xfc\x11\x03", "w32 2000", "vmovups [rbx], ymm0");
    TELLS(64, "\xc4\xc1\x7c\x11\x01", "w32 9000", "vmovups [r9], ymm0");
    TELLS(64, "\xc4\xe2\xf8\xf7\x03", "r32 2000", "bextr rax, [rbx], rax");
    TELLS(64, "\xc5\xfc\x10\xc1", "", "vmovups ymm0, ymm1");
    TELLS(64, "\xc5\xf8\x77", "", "vzeroupper");
    TELLS(32, "\xc5\x03", "r4 2000", "lds eax, [ebx] in 32 bits");
    TELLS(32, "\xc5\xfc\x11\x03", "w32 2000", "vmovups [ebx], ymm0 in 32 bits");
    TELLS(64, "\x62\xf1\x7c\x48\x11\x03", "", "EVEX is not known");
}

int main(void)
{
    test_one_byte();
    test_relative();
    test_maps();
    test_vex();
    return tap_done();
}
