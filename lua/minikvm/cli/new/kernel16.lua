-- kernel16.lua - `minikvm new kernel16`: a program for 16-bit real mode, on ports alone.
return {
  { "Makefile", [==[
MINIKVM ?= minikvm

all: NAME.bin

# Linked for 0: CS, DS, ES and SS are where the image is, IP is 0.
NAME.elf: NAME.S
	gcc -m32 -c -o NAME.o NAME.S
	ld -m elf_i386 -n -Ttext 0 -e 0 -o $@ NAME.o

NAME.bin: NAME.elf
	objcopy -O binary -j .text $< $@

run: all
	$(MINIKVM) run NAME.bin

test: all
	$(MINIKVM) test test.lua

clean:
	rm -f NAME.o NAME.elf NAME.bin

.PHONY: all run test clean
]==] },
  { "NAME.S", [==[
/* Adds the two digits that are typed and prints the sum: port 0xe9 writes and reads the console,
 * port 0xf4 ends the VM with the byte as its exit code, HLT ends it too. */
.intel_syntax noprefix
.code16
.globl _start
_start:
    mov si, offset prompt
    call print
    call digit
    mov bl, al
    call digit
    add al, bl
    xor ah, ah
    mov bl, 10
    div bl                  /* tens in AL, ones in AH */
    add ax, 0x3030
    out 0xe9, al
    mov al, ah
    out 0xe9, al
    mov al, '\n'
    out 0xe9, al
    hlt

digit:                      /* the next one that is typed, 0 to 9 in AL */
    in al, 0xe9             /* 0xff: none yet */
    sub al, '0'
    cmp al, 9
    ja digit
    ret

print:                      /* the text at SI, which ends with a zero byte */
    lodsb
    test al, al
    jz 1f
    out 0xe9, al
    jmp print
1:  ret

prompt:
    .asciz "two digits? "

.section .note.GNU-stack, "", @progbits
]==] },
  { "test.lua", [==[
-- Each test gets the guest as it was when it had asked its question: it boots once.
local t = require "minikvm.test"

local here = arg[0]:match "^.*/" or ""

local asking = t.guest{
  name = "NAME", mode = "real", image = here .. "NAME.bin",
  boot = function(vm) vm.console:expect "digits%? " end,
}

t.describe("NAME", function()
  for typed, sum in pairs{ ["34"] = "07", ["99"] = "18", ["x1y1"] = "02" } do
    t.it("makes " .. sum .. " of " .. typed, function()
      local vm = asking()
      vm.console:send(typed)
      vm.console:expect(sum .. "\n")
    end)
  end
end)
]==] },
}
