-- fault_commands.lua - whole programs while faults are made on purpose (tools/faults.c): command
-- lines of minikvm that a fault ends with a message and a status, or that do what they do without.
-- D stands for an empty folder, P for the program.

local M = {}

local function put(path, text)
  local file <close> = assert(io.open(path, "w"))
  file:write(text)
end

---@class fault_command
---@field line string
---@field prepare? fun(folder: string)
---@field whole? fun(folder: string): string?  what is wrong with what is there afterwards
---@field tells? string  a pattern: what it prints so is an error, too

M.run = { line = "P run guests/real/hello.bin </dev/null" }
M.several = {
  line = "P run --memory 1M guests/real/hello.bin guests/real/fibonacci.bin </dev/null",
}
M.jail = { line = "P run --jail guests/real/hello.bin </dev/null" }
M.strict = { line = "P run --jail=strict guests/real/hello.bin </dev/null" }
M.trace = { line = "P run --trace-file D/trace.json guests/real/hello.bin </dev/null" }
M.safe = { prepare = function(folder)
  put(folder .. "/script.lua", [[
    local kvm = require "minikvm"
    local vm = assert(kvm.vm{ echo = false })
    assert(vm:load{ bytes = "\xb0\x07\xf4" })
    local reason, info = vm:run()
    assert(reason == "halt", info.text)
    print(vm.cpu[0].al)
  ]])
end, line = "P --safe D/script.lua </dev/null" }

M.test = { prepare = function(folder)
  put(folder .. "/some_spec.lua", [[
    local t = require "minikvm.test"
    local guest = t.guest{ image = "guests/real/hello.bin" }
    t.it("says hello", function()
      local vm = guest()
      assert(vm:run() == "halt")
      assert(vm.console:text() == "Hello, KVM!\n")
    end)
  ]])
end, line = "P test --junit D/junit.xml D/some_spec.lua </dev/null",
tells = "1 skipped", -- KVM is not there, it says
whole = function(folder)
  local file <close> = io.open(folder .. "/junit.xml")
  if file and not file:read "a":find("</testsuites>%s*$") then return "half of junit.xml" end
end }

return M
