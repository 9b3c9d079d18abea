-- kernel64.lua - `minikvm new kernel64`: a 64-bit kernel in C. It is entered in long mode with page
-- tables that map RAM at its own addresses (docs/abi.md); no boot loader loads it.
return {
  { "Makefile", [==[
MINIKVM ?= minikvm
CFLAGS = -m64 -g -Og -std=gnu11 -Wall -Wextra -ffreestanding -fno-pic -mno-red-zone \
         -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables \
         -mgeneral-regs-only

all: NAME.elf

NAME.elf: start.S kernel.c kernel.ld
	gcc $(CFLAGS) -c -o start.o start.S
	gcc $(CFLAGS) -c -o kernel.o kernel.c
	ld -m elf_x86_64 -n --no-warn-rwx-segments --build-id=none -T kernel.ld -o $@ start.o kernel.o

run: all
	$(MINIKVM) run --mode long NAME.elf

test: all
	$(MINIKVM) test test.lua

clean:
	rm -f *.o NAME.elf

.PHONY: all run test clean
]==] },
  { "start.S", [==[
/* Long mode, interrupts off, a small stack below the page tables. */
.text
.globl start
start:
    lea stack_top(%rip), %rsp
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
/* Counts the words of each line that is typed; "quit" ends the VM with the number of all words. */
#define CONSOLE 0xe9 /* a byte of console output; read: of input, 0xff while there is none */
#define EXIT 0xf4    /* what is written there is the VM's exit code */

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
        out(CONSOLE, (unsigned char)*text++);
}

static void print_number(unsigned long n)
{
    if (n > 9)
        print_number(n / 10);
    out(CONSOLE, (unsigned char)('0' + n % 10));
}

static char read_char(void)
{
    unsigned char c;
    do
        c = in(CONSOLE);
    while (c == 0xff);
    return (char)c;
}

static void read_line(char *line, unsigned size)
{
    unsigned length = 0;
    for (char c; (c = read_char()) != '\n';)
        if (length + 1 < size)
            line[length++] = c;
    line[length] = 0;
}

static unsigned long words_of(const char *line)
{
    unsigned long words = 0;
    for (char before = ' '; *line; before = *line++)
        words += *line != ' ' && before == ' ';
    return words;
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

void main(void)
{
    static char line[1024];
    unsigned long words = 0;

    print("NAME\n");
    for (;;) {
        print("> ");
        read_line(line, sizeof(line));
        if (same(line, "quit"))
            out(EXIT, (unsigned char)words);
        words += words_of(line);
        print_number(words_of(line));
        print("\n");
    }
}
]==] },
  { "kernel.ld", [==[
ENTRY(start)
SECTIONS
{
    . = 0x100000;
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
  name = "NAME", mode = "long", image = here .. "NAME.elf",
  boot = function(vm) vm.console:expect "NAME\n> " end,
}

t.describe("NAME", function()
  for line, count in pairs{ [""] = "0", ["one"] = "1", ["  two  words "] = "2" } do
    t.it(("counts the words of %q"):format(line), function()
      local vm = ready()
      vm.console:sendline(line)
      vm.console:expect(count .. "\n> ")
    end)
  end

  t.it("ends with the number of all words", function()
    local vm = ready()
    vm.console:sendline "a b c"
    vm.console:sendline "d"
    vm.console:sendline "quit"
    local reason, info = vm:run{ deadline = 10 }
    assert(reason == "exit" and info.code == 4, reason)
  end)
end)
]==] },
}
