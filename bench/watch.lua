-- watch.lua - waiting for output: how soon a wait on a started VM comes back after the byte, how
-- fast output is looked at, and what a wait costs on a VM that it runs itself.

local kvm = require "minikvm"
local report = require "report"
local core = require "minikvm.core"

local ROUNDS <const> = 200
local MARK_PORT <const> = 0x80
local TOTAL <const>, BLOCK <const> = 100 << 20, 1 << 20

---A started guest that again and again spins a moment (few turns: some hosts emulate them), marks
---the time and prints a byte.
local function wake_ups()
  local vm <close> = assert(kvm.vm{ echo = false, mode = "protected" })
  local printed
  vm.ports:on(MARK_PORT, { write = function() printed = core.now() end })
  -- mov ecx, 300; dec ecx; jnz; out 0x80, al; mov al, 'x'; out 0xe9, al; jmp
  assert(vm:load{ bytes = "\xb9\x2c\x01\x00\x00\x49\x75\xfd\xe6\x80\xb0x\xe6\xe9\xeb\xf0" })
  vm:start()
  local list = {}
  for i = 1, ROUNDS do
    vm.console:expect "x"
    list[i] = core.now() - printed
  end
  vm:stop()
  return list
end

---Lines such as kernels print, with some that look like what is waited for.
local function output()
  local lines, size = {}, 0
  math.randomseed(1)
  while size < BLOCK do
    local line = ("[%5d.%06d] %s: mapped page %08x to frame %08x, Pass %d\n"):format(
      math.random(99999), math.random(999999), math.random(9) == 1 and "login daemon" or "memory",
      math.random(0xfffffff), math.random(0xfffffff), math.random(99))
    lines[#lines + 1], size = line, size + #line
  end
  return table.concat(lines):sub(1, BLOCK)
end

---Bytes of a second that a handler prints, with these patterns armed.
local function speed(text, patterns, piece, total)
  local vm <close> = assert(kvm.vm{ echo = false, limits = { handler = false } })
  vm:load{ bytes = "\xe6\x80\xf4" } -- out 0x80, al; hlt
  local watch <close> = core.watch(vm.console, 0, patterns, {})
  local seconds
  vm.ports:on(0x80, { write = function()
    local began = core.now()
    for _ = 1, total // #text do
      for at = 1, #text, piece do vm.console:write(text:sub(at, at + piece - 1)) end
    end
    seconds = core.now() - began
  end })
  vm:run()
  assert(core.watch_result(watch) ~= "matched")
  return total / seconds
end

---A wait on a VM that it runs itself: the guest echoes a byte.
local function round_trips()
  local vm <close> = assert(kvm.vm{ echo = false })
  assert(vm:load "guests/real/echo.bin")
  local list = {}
  for i = 1, ROUNDS do
    vm.console:send "x"
    local began = core.now()
    vm.console:expect "x"
    list[i] = core.now() - began
  end
  return list
end

report.title("watch: waiting for output")
report.line("a started VM: from the byte to the script", wake_ups(), "ms", 1e3, 0.2)
report.line("a VM run by the wait: send, echo, stop", round_trips(), "ms", 1e3)

local text = output()
local CASES <const> = {
  { "texts", { "PANIC", "login: $" }, 4096, -100 },
  { "captures, repetitions", { "[Ff]ault at (%x+)", "(%d+) tests? passed" }, 4096, -100 },
  { "many beginnings", { "memory.-failed", "%w+: error" }, 4096 },
  { "texts, byte by byte", { "PANIC", "login: $" }, 1 },
}
for _, case in ipairs(CASES) do
  local name, patterns, piece, target = case[1], case[2], case[3], case[4]
  local list = {}
  for i = 1, 3 do list[i] = speed(text, patterns, piece, piece == 1 and BLOCK or TOTAL) end
  report.line("two patterns in a stream: " .. name, list, "MB/s", 1e-6, target)
end
report.finish()
