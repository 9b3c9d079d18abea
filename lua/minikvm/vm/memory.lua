-- memory.lua - vm.memory:map: RAM outside RAM, ROM, and files that others see too, on top of the
-- core's function (src/lua/map.c); memory:hexdump.

local core = require "minikvm.core"
local options = require "minikvm.options"

---@class minikvm.memory
local memory = core.methods "minikvm.memory"

local WHERE <const> = "memory:map"

local MAP <const> = options.declare(WHERE, {
  at = "address", size = "size", rom = "boolean", shared = "boolean", bytes = "string",
  path = "text", name = "text",
})

---What is wrong with options that are right each by itself; nil when nothing is.
local function conflict(o)
  if not o.at then return "option 'at' is missing: the guest-physical address" end
  if o.bytes and o.path then return "options 'bytes' and 'path': give one of them" end
  if o.shared and not o.path then return "option 'shared' is for a file: give its 'path'" end
  if o.bytes == "" then return "option 'bytes' is empty" end
  if o.rom and not (o.bytes or o.path) then
    return "option 'rom': give its contents, 'bytes' or 'path'"
  end
  if not (o.size or o.bytes or o.path) then return "option 'size' is missing" end
end

local MISUSE <const> = { EINVAL = true, EEXIST = true, ENOSPC = true }

---Adds memory to a VM that does not run.
---  at      guest-physical address, a multiple of 4096, where no memory is
---  size    bytes, a multiple of 4096, or text such as "64K"; by default that of the contents
---  bytes   what it begins with, and what vm:reset() puts back; the rest is zero
---  path    the same from a file
---  rom     true: guests read it and run code in it. What they write goes to a handler of vm.mmio
---          that lies there, and else is ignored and counted (`hits` of the handle), or ends the VM
---          with unhandled = "fault"
---  shared  true: the file at `path` itself, which other VMs and processes see change. Not part of
---          snapshots
---  name    for messages
---@param opts { at: integer, size: integer|string|nil, bytes: string?, path: string?,
---  rom: boolean?, shared: boolean?, name: string? }
---@return minikvm.handle? handle  or nil, "what: why", "ENAME". remove() takes the memory away
---@return string? why
---@return string? code
function memory:map(opts)
  options.self(WHERE, self, "minikvm.memory")
  local o = options.check(WHERE, opts, MAP)
  local wrong = conflict(o)
  if wrong then core.blame(("%s: %s"):format(WHERE, wrong)) end
  o.name = o.name or o.path and o.path:match "[^/]*$" or o.rom and "ROM" or "memory"
  local handle, why, code = core.memory_map(self, o)
  if not handle and MISUSE[code] and not (o.path and why:sub(1, #o.path) == o.path) then
    core.blame(("%s: %s"):format(WHERE, why))
  end
  return handle, why, code
end

local function hexdump_line(at, bytes)
  return ("%08x %-48s  %s\n"):format(at, (core.hex(bytes):gsub("..", " %0")),
                                     (bytes:gsub("[^ -~]", ".")))
end

---Bytes as lines of 16.
---@param from integer
---@param length integer
---@return string
function memory:hexdump(from, length)
  options.self("memory:hexdump", self, "minikvm.memory")
  options.argument("memory:hexdump", "from", from, "integer")
  options.argument("memory:hexdump", "length", length, "integer")
  local bytes, lines = self:read(from, length), {}
  for i = 1, length, 16 do
    lines[#lines + 1] = hexdump_line(from + i - 1, bytes:sub(i, math.min(i + 15, length)))
  end
  return table.concat(lines)
end

return memory
