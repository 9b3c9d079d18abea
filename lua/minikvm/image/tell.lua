-- image/tell.lua - a program for Linux guests that speaks to the host through ports, without
-- libraries: an ELF64 file of 64-bit code (System V ABI, AMD64 supplement: process start, system
-- calls).
--
--   tell              copies its input to port 0xe9, the debug console
--   tell PORT         copies it to another port
--   tell PORT VALUE   writes a doubleword to a port. Port 244 ends the VM (0xf4)
--
-- Numbers are decimal. What copies is scheduled before everything else, so that what a program
-- prints here and there comes out in that order, and nothing in between. It needs root, and a
-- kernel with iopl(2) (CONFIG_X86_IOPL_IOPERM).

local core = require "minikvm.core"

local M = {}

local AT <const>, BUFFER <const> = 0x400000, 0x2000
local CODE_AT <const> = 64 + 56 -- behind the ELF header and its program header

local CODE <const> = [[
  44 8b 24 24           ;         mov r12d, [rsp]     argc
  48 8d 6c 24 10        ;         lea rbp, [rsp + 16] argv + 1
  bf 03 00 00 00        ;         mov edi, 3
  b8 ac 00 00 00        ;         mov eax, 172
  0f 05                 ;         syscall             iopl(3)
  6a 01                 ;         push 1
  48 89 e2              ;         mov rdx, rsp
  be 01 00 00 00        ;         mov esi, 1
  31 ff                 ;         xor edi, edi
  b8 90 00 00 00        ;         mov eax, 144
  0f 05                 ;         syscall             sched_setscheduler(0, SCHED_FIFO, {1})
  bb e9 00 00 00        ;         mov ebx, 0xe9
  41 83 fc 02           ;         cmp r12d, 2
  7c 11                 ;         jl next
  48 8b 75 00           ;         mov rsi, [rbp]
  e8 3e 00 00 00        ;         call number
  89 c3                 ;         mov ebx, eax
  41 83 fc 03           ;         cmp r12d, 3
  7d 21                 ;         jge tell
  31 ff                 ; next:   xor edi, edi
  be 00 10 40 00        ;         mov esi, 0x401000
  ba 00 10 00 00        ;         mov edx, 4096
  31 c0                 ;         xor eax, eax
  0f 05                 ;         syscall             read(0, 0x401000, 4096)
  85 c0                 ;         test eax, eax
  7e 19                 ;         jle done
  89 c1                 ;         mov ecx, eax
  be 00 10 40 00        ;         mov esi, 0x401000
  89 da                 ;         mov edx, ebx
  f3 6e                 ;         rep outsb
  eb df                 ;         jmp next
  48 8b 75 08           ; tell:   mov rsi, [rbp + 8]
  e8 0c 00 00 00        ;         call number
  89 da                 ;         mov edx, ebx
  ef                    ;         out dx, eax
  31 ff                 ; done:   xor edi, edi
  b8 3c 00 00 00        ;         mov eax, 60
  0f 05                 ;         syscall             exit(0)
  31 c0                 ; number: xor eax, eax        of digits at rsi
  31 c9                 ;         xor ecx, ecx
  8a 0e                 ; digit:  mov cl, [rsi]
  80 e9 30              ;         sub cl, '0'
  78 0a                 ;         js end
  6b c0 0a              ;         imul eax, eax, 10
  01 c8                 ;         add eax, ecx
  48 ff c6              ;         inc rsi
  eb ef                 ;         jmp digit
  c3                    ; end:    ret
]]

---@return string bytes  of the file
function M.program()
  local code = core.unhex((CODE:gsub(";[^\n]*", ""):gsub("%s", "")))
  local size = CODE_AT + #code
  return "\x7fELF\2\1\1" .. ("\0"):rep(9)
    .. ("<I2I2I4I8I8I8I4I2I2I2I2I2I2"):pack(2, 62, 1, AT + CODE_AT, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    .. ("<I4I4I8I8I8I8I8I8"):pack(1, 7, 0, AT, AT, size, BUFFER, 4096) .. code
end

return M
