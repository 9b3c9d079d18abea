-- file_protocol.lua - another file protocol on port 0x278, for one VM, in Lua.
--
--   minikvm scripts/file_protocol.lua
--
-- The guest (guests/real/file_protocol.S) ends names with a NUL and wants a status byte after every
-- byte it transfers. The handler translates: `next` is the built-in handler beneath, so names,
-- policy and quotas are still checked in C.

local kvm = require "minikvm"
require("minikvm.cli.args").explain(arg)

local here <const> = arg[0]:match "^.*/" or ""
local PORT <const> = 0x278
local OPEN <const>, CLOSE <const>, READ <const>, WRITE <const> = 1, 2, 3, 4
local MODES <const> = { r = 1, w = 2 | 8 } -- the flags READ; WRITE and TRUNC

local command = {} -- bytes of the one being sent
local answer       -- answer(next): what the built-in handler said, as this guest wants it

local function int(next) -- a result of the built-in protocol
  return (("<i4"):unpack(string.char(next(), next(), next(), next())))
end

local answers <const> = {
  [OPEN] = function(next) local fd = int(next) return { fd >= 0 and fd or 0xff } end,
  [CLOSE] = function(next) return { int(next) == 0 and 1 or 0 } end,
  [READ] = function(next)
    if int(next) == 1 then return { next(), 1 } end
    return { 0, 0 }
  end,
  [WRITE] = function(next) return { int(next) == 1 and 1 or 0 } end,
}

---The same command for the built-in handler, once it is complete.
local function translate(bytes)
  local op, argument = bytes:byte(1, 2)
  if op == OPEN and #bytes > 2 and bytes:sub(-1) == "\0" then
    return ("<BBs1"):pack(OPEN, MODES[bytes:sub(2, 2)] or 0, bytes:sub(3, -2):sub(1, 255))
  elseif op == CLOSE and #bytes == 2 then return ("<Bi4"):pack(CLOSE, argument)
  elseif op == READ and #bytes == 2 then return ("<Bi4i4"):pack(READ, argument, 1)
  elseif op == WRITE and #bytes == 3 then
    return ("<Bi4i4B"):pack(WRITE, argument, 1, bytes:byte(3))
  end
end

local vm = assert(kvm.vm{ name = "other", echo = false, files = kvm.files{ audit = true } })
vm.ports:override(PORT, {
  write = function(_, value, _, next)
    if #command == 0 and not answers[value] then return end
    command[#command + 1] = string.char(value)
    local native = translate(table.concat(command))
    if not native then return end
    answer = answers[command[1]:byte()]
    command = {}
    for i = 1, #native do next(native:byte(i)) end
  end,
  read = function(_, _, next)
    if type(answer) == "function" then answer = answer(next) end
    return answer and table.remove(answer, 1) or 0
  end,
})
assert(vm:load(here .. "../guests/real/file_protocol.bin"))
local reason, info = vm:run{ deadline = 10 }
print((vm.console:text():gsub("\n", "")), reason, info.code)
for _, e in ipairs(vm.files:audit()) do print(e.op, e.name, e.verdict, e.bytes, e.error or "") end
os.exit(reason == "exit" and info.code == 0
        and vm.console:text() == "written by another protocol\n", true)
