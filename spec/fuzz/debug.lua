-- debug.lua - what debug.c calls: a guest with breakpoints and watched memory where the input says,
-- which writes there, maps other pages and exits as it likes (kvm.c).

local kvm = require "minikvm"

local vms = {}
for i, mode in ipairs{ "real", "protected", "paged", "long" } do
  vms[i] = assert(kvm.vm{ mode = mode, echo = false,
                          limits = { exits = 300, seconds = 1 } })
  assert(vms[i]:load{ bytes = ("\x90"):rep(99) .. "\xf4" })
  vms[i].console:eof()
end

local ENDS <const> = { shutdown = true, halt = true, exit = true, limit = true, deadline = true,
                       fault = true, ["break"] = true, stopped = true }
local KINDS <const> = { "w", "r", "rw", "x" }

---One of four bytes: where, what, how.
local function point(vm, at, kind, size)
  if kind < 128 then
    local fn = kind % 3 == 0 and function() return kind % 2 == 0 end or nil
    return (vm:break_at(at, fn))
  end
  local watched, handle = pcall(vm.watch, vm, at, size + 1, KINDS[kind % 4 + 1])
  return watched and handle or nil
end

local function run(vm)
  for turn = 1, 8 do
    local reason, info = vm:run()
    if not ENDS[reason or ""] then
      error(("%s: %s"):format(reason, info.text), 0)
    end
    if reason ~= "break" then return end
    if turn % 3 == 0 then vm.cpu[0]:step() end
    if vm.state == "ended" then return end
  end
end

return function(bytes)
  if #bytes < 2 then return end
  local vm, count = vms[bytes:byte() % #vms + 1], bytes:byte(2) % 8
  local handles = {}
  load_program(bytes:sub(3 + 4 * count))
  assert(vm:reset())
  for i = 0, count - 1 do
    if #bytes < 6 + 4 * i then break end
    handles[#handles + 1] = point(vm, ("<I2BB"):unpack(bytes, 3 + 4 * i))
  end
  run(vm)
  for _, handle in ipairs(handles) do handle:remove() end
end
