-- device.lua - `minikvm new device`: a device in Lua, a guest that drives it, tests of both.
return {
  { "Makefile", [==[
MINIKVM ?= minikvm

all: driver.bin

driver.elf: driver.S
	gcc -m32 -c -o driver.o driver.S
	ld -m elf_i386 -n -Ttext 0 -e 0 -o $@ driver.o

driver.bin: driver.elf
	objcopy -O binary -j .text $< $@

run: all
	$(MINIKVM) run.lua

test: all
	$(MINIKVM) test test.lua

clean:
	rm -f driver.o driver.elf driver.bin

.PHONY: all run test clean
]==] },
  { "NAME.lua", [==[
-- NAME: adds up what is written to it. Two registers of 32 bits:
--   +0 VALUE    write: is added; read: the sum so far
--   +4 CONTROL  write 1: begin anew; read: how many values came
local kvm = require "minikvm"

local M = {}

local device <const> = kvm.device{
  name = "NAME",
  registers = { [0] = { name = "VALUE", width = 4 }, [4] = { name = "CONTROL", width = 4 } },
  -- What it knows is in d.state, which belongs to snapshots and forks; reset makes it anew.
  reset = function(d) d.state.sum, d.state.count = 0, 0 end,
  read = {
    VALUE = function(d) return d.state.sum end,
    CONTROL = function(d) return d.state.count end,
  },
  write = {
    VALUE = function(d, _, value)
      d.state.sum = (d.state.sum + value) & 0xffffffff
      d.state.count = d.state.count + 1
    end,
    CONTROL = function(d, _, value)
      if value == 1 then d.state.sum, d.state.count = 0, 0 end
    end,
  },
}

---The device, for vm:attach(device, { ports = 0x300 }) or { mmio = ADDRESS }.
function M.new() return device end

return M
]==] },
  { "driver.S", [==[
/* Gives the device at port 0x300 three numbers and ends with their sum as exit code. */
.intel_syntax noprefix
.code16
.globl _start
_start:
    mov dx, 0x304           /* CONTROL */
    mov eax, 1
    out dx, eax
    mov dx, 0x300           /* VALUE */
    mov cx, 3
    mov eax, 10
1:  out dx, eax
    inc eax
    loop 1b
    in eax, dx
    out 0xf4, al

.section .note.GNU-stack, "", @progbits
]==] },
  { "run.lua", [==[
local here = arg[0]:match "^.*/" or ""
package.path = here .. "?.lua;" .. package.path

local kvm = require "minikvm"

local vm <close> = assert(kvm.vm{ name = "NAME", mode = "real" })
vm:attach(require("NAME").new(), { ports = 0x300 })
assert(vm:load(here .. "driver.bin"))
local reason, info = vm:run{ deadline = 5 }
print(reason, info.code)
]==] },
  { "test.lua", [==[
local here = arg[0]:match "^.*/" or ""
package.path = here .. "?.lua;" .. package.path

local kvm = require "minikvm"
local t = require "minikvm.test"

---A VM with the device, and the code to run in it: a file, or machine code in hexadecimal digits.
local function machine(code)
  local vm = assert(kvm.vm{ name = "NAME", mode = "real", echo = false })
  local device = vm:attach(require("NAME").new(), { ports = 0x300 })
  if code:find "%.bin$" then
    assert(vm:load(here .. code))
  else
    assert(vm:load{ bytes = code:gsub("%X", ""):gsub("..", function(digits)
      return string.char(tonumber(digits, 16))
    end) })
  end
  return vm, device
end

t.describe("NAME", function()
  t.it("adds what its driver writes", function()
    local vm <close>, device = machine "driver.bin"
    local reason, info = vm:run{ deadline = 5 }
    assert(reason == "exit" and info.code == 10 + 11 + 12, reason)
    assert(device.state.count == 3)
  end)

  t.it("wraps at 32 bits", function()
    -- mov dx, 0x300; mov eax, -1; out dx, eax; mov eax, 3; out dx, eax; in eax, dx; out 0xf4, al
    local vm <close> = machine [[ba 00 03 66 b8 ff ff ff ff 66 ef 66 b8 03 00 00 00 66 ef
      66 ed e6 f4]]
    local reason, info = vm:run{ deadline = 5 }
    assert(reason == "exit" and info.code == 2, reason)
  end)

  t.it("belongs to snapshots", function()
    local vm <close>, device = machine "driver.bin"
    local before = assert(vm:snapshot())
    vm:run{ deadline = 5 }
    assert(device.state.sum == 33)
    assert(vm:restore(before))
    assert(device.state.sum == 0)
  end)
end)
]==] },
}
