-- kernel32.lua - `minikvm new kernel32`: a 32-bit kernel in C, by the Multiboot2 protocol, which
-- boot loaders of real machines load as well.
return {
  { "Makefile", [==[
MINIKVM ?= minikvm
CFLAGS = -m32 -g -Og -std=gnu11 -Wall -Wextra -ffreestanding -fno-pic -fno-stack-protector \
         -fcf-protection=none -fno-asynchronous-unwind-tables -mgeneral-regs-only

all: NAME.elf

NAME.elf: start.S kernel.c kernel.ld
	gcc $(CFLAGS) -c -o start.o start.S
	gcc $(CFLAGS) -c -o kernel.o kernel.c
	ld -m elf_i386 -n --no-warn-rwx-segments --build-id=none -T kernel.ld -o $@ start.o kernel.o

run: all
	$(MINIKVM) run NAME.elf

test: all
	$(MINIKVM) test test.lua

clean:
	rm -f *.o NAME.elf

.PHONY: all run test clean
]==] },
  { "start.S", [==[
/* The header that boot loaders look for (Multiboot2 Specification, 3.1): magic, architecture i386,
 * length, checksum; then the tag that ends it. Flat segments, paging off, interrupts off. */
.section .multiboot2, "a"
header:
    .long 0xe85250d6, 0, end - header, -(0xe85250d6 + end - header)
    .short 0, 0
    .long 8
end:

.text
.globl start
start:
    movl $stack_top, %esp
    call main
1:  cli
    hlt
    jmp 1b

.bss
.skip 16384
stack_top:

.section .note.GNU-stack, "", @progbits
]==] },
  { "kernel.c", [==[
/* Echoes lines that are typed on the serial port; "quit" ends the VM with status 0. */
#define COM1 0x3f8
#define EXIT 0xf4 /* what is written there is the VM's exit code */

static void out(unsigned short port, unsigned char value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static unsigned char in(unsigned short port)
{
    unsigned char value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void print(const char *text)
{
    while (*text)
        out(COM1, (unsigned char)*text++);
}

static char read_char(void)
{
    while (!(in(COM1 + 5) & 1)) /* line status: data ready */
        ;
    return (char)in(COM1);
}

static void read_line(char *line, unsigned size)
{
    unsigned length = 0;
    for (char c; (c = read_char()) != '\n';)
        if (length + 1 < size)
            line[length++] = c;
    line[length] = 0;
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

void main(void)
{
    char line[80];

    print("NAME\n");
    for (;;) {
        print("> ");
        read_line(line, sizeof(line));
        if (same(line, "quit"))
            out(EXIT, 0);
        if (same(line, "crash"))
            __asm__ volatile("ud2");
        print("you said: ");
        print(line);
        print("\n");
    }
}
]==] },
  { "kernel.ld", [==[
ENTRY(start)
SECTIONS
{
    . = 0x100000;
    .multiboot2 : { *(.multiboot2) }
    .text : { *(.text .text.*) }
    .rodata : { *(.rodata .rodata.*) }
    .data : { *(.data .data.*) }
    .bss : { *(.bss .bss.* COMMON) }
    /DISCARD/ : { *(.eh_frame .note.* .comment) }
}
]==] },
  { "test.lua", [==[
-- Each test gets the kernel as it was at its first prompt: it boots once.
local t = require "minikvm.test"

local here = arg[0]:match "^.*/" or ""

local ready = t.guest{
  name = "NAME", image = here .. "NAME.elf",
  boot = function(vm) vm.console:expect "NAME\n> " end,
}

t.describe("NAME", function()
  t.it("echoes", function()
    local vm = ready()
    vm.console:sendline "hello"
    vm.console:expect "you said: hello\n> "
  end)

  t.it("takes lines that are too long", function()
    local vm = ready()
    vm.console:sendline(("x"):rep(200))
    vm.console:expect(("you said: %s\n> "):format(("x"):rep(79)))
  end)

  t.it("ends with status 0", function()
    local vm = ready()
    vm.console:sendline "quit"
    local reason, info = vm:run{ deadline = 10 }
    assert(reason == "exit" and info.code == 0, reason)
  end)
end)
]==] },
}
