-- rom.lua - the machine code of a BIOS whose services are Lua functions: what lies at f0000.
--
-- An interrupt vector points to a stub: OUT to the BIOS's port, IRET. The handler of the port knows
-- the service by the stub's address. A service that waits returns with CF set in the processor, not
-- in the flags on the stack: the stub, which runs with interrupts on, halts and asks again. What
-- interrupts the guest (timer, keyboard) is served in machine code as far as it can be. IBM PC/AT
-- Technical Reference, "BIOS".

local core = require "minikvm.core"

local M = {}

M.SEGMENT, M.BASE = 0xf000, 0xf0000
M.PORT = 0xb4 -- of no PC device
M.WAKE = 7 -- the line that ends the HLT of a service that waits
M.CONFIG = 0xe6f5 -- of the table of INT 15h, AH=c0h: where IBM's is
local STUBS <const>, POST <const>, RESET <const> = 0xd000, 0xe05b, 0xfff0
local TIMER <const>, KEYBOARD <const>, EOI <const>, EOI_2 <const>, IRET <const>, DATE <const> =
  0xfea5, 0xe987, 0xfef3, 0xfee0, 0xff53, 0xfff5 -- IBM's, where there is one

-- The services: vectors whose handlers are in Lua; and those of them that may wait.
local SERVICES <const> = { 0x00, 0x06, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19,
                           0x1a }
local WAITS <const> = { [0x15] = true, [0x16] = true }

local function bytes(listing)
  return core.unhex((listing:gsub(";[^\n]*", ""):gsub("%s", "")))
end

local CODE <const> = {
  call = bytes [[ e6 b4 ; out PORT, al
                  cf    ; iret ]],
  wait = bytes [[ fb    ; sti
                  e6 b4 ; again: out PORT, al
                  73 03 ; jnc done
                  f4    ; hlt
                  eb f9 ; jmp again
                  cf    ; done: iret ]],
  -- Controllers and timer, then the tables in low memory (in Lua), then the boot.
  post = bytes [[
    fa 31 c0 8e d0 bc 00 7c                     ; cli; ss:sp = 0:7c00
    b0 11 e6 20 e6 a0 b0 08 e6 21 b0 70 e6 a1   ; both PICs: vectors 8 and 70h on
    b0 04 e6 21 b0 02 e6 a1 b0 01 e6 21 e6 a1
    b0 38 e6 21 b0 ff e6 a1                     ; timer, keyboard, cascade, 6, WAKE
    b0 36 e6 43 b0 00 e6 40 e6 40               ; PIT: 18.2 ticks a second
    e6 b4                                       ; out PORT, al: the tables
    fb cd 19                                    ; sti; int 19h ]],
  timer = bytes [[
    50 1e b8 40 00 8e d8                        ; push ax; push ds; ds = 40h
    66 ff 06 6c 00                              ; inc dword [6ch]
    66 81 3e 6c 00 b0 00 18 00 72 0d            ; below 1800b0h, a day: jb
    66 c7 06 6c 00 00 00 00 00 fe 06 70 00      ; mov dword [6ch], 0; inc byte [70h]
    cd 1c b0 20 e6 20 1f 58 cf                  ; int 1ch; end of interrupt ]],
  keyboard = bytes [[
    50 e4 60 e6 b4                              ; push ax; in al, 60h; out PORT, al
    b0 20 e6 20 58 cf                           ; end of interrupt ]],
  eoi = bytes "50 b0 20 e6 20 58 cf",
  eoi_2 = bytes "50 b0 20 e6 a0 e6 20 58 cf",
  iret = "\xcf",
}

local POST_TRAP <const> = POST + CODE.post:find("\xe6\xb4", 1, true) - 1
local KEYBOARD_TRAP <const> = KEYBOARD + 3

---By the address of an OUT: the vector, or "post" or "key".
---@type table<integer, integer|string>
M.traps = { [POST_TRAP] = "post", [KEYBOARD_TRAP] = "key" }

local vectors, parts = {}, { [POST] = CODE.post, [TIMER] = CODE.timer, [KEYBOARD] = CODE.keyboard,
                             [EOI] = CODE.eoi, [EOI_2] = CODE.eoi_2, [IRET] = CODE.iret,
                             [RESET] = ("<BI2I2"):pack(0xea, POST, 0xf000),
                             [DATE] = "11/26/26\0\xfc",
                             [M.CONFIG] = ("<I2BBBBBBBB"):pack(8, 0xfc, 0, 1, 0x70, 0, 0, 0, 0) }
for vector = 0, 0xff do vectors[vector] = IRET end
local at = STUBS
for _, vector in ipairs(SERVICES) do
  local code = WAITS[vector] and CODE.wait or CODE.call
  parts[at], vectors[vector] = code, at
  M.traps[at + code:find("\xe6", 1, true) - 1] = vector
  at = at + 16
end
vectors[0x08], vectors[0x09] = TIMER, KEYBOARD
for vector = 0x0a, 0x0f do vectors[vector] = EOI end
for vector = 0x70, 0x77 do vectors[vector] = EOI_2 end

---Puts the code into the VM's memory.
---@param memory minikvm.memory
function M.install(memory)
  for place, code in pairs(parts) do memory:write(M.BASE + place, code) end
end

local POINTERS <const> = { [0x1d] = true, [0x1e] = true, [0x1f] = true, [0x41] = true,
                           [0x43] = true, [0x46] = true }

---The interrupt vector table. Vectors that other programs take for pointers or find empty are 0.
---@return string
function M.vector_table()
  local all = {}
  for vector = 0, 0x77 do
    local empty = POINTERS[vector] or vector >= 0x60 and vector <= 0x67
    all[2 * vector + 1], all[2 * vector + 2] = empty and 0 or vectors[vector],
      empty and 0 or M.SEGMENT
  end
  return ("<" .. ("I2I2"):rep(0x78)):pack(table.unpack(all)) .. ("\0"):rep(4 * 0x88)
end

return M
