-- files.lua - guests that do one file operation a run, by either protocol, and folders for them.

local lfs = require "lfs"
local program = require "support.program"
local support = require "support.guest"

local M = {}

M.READ, M.WRITE, M.CREATE, M.TRUNC, M.APPEND = 1, 2, 4, 8, 16

local errors = { ENOENT = 2, EBADF = 9, EACCES = 13, EFAULT = 14, EBUSY = 16, ENOTDIR = 20,
                 EINVAL = 22, EMFILE = 24, EFBIG = 27, ENOSPC = 28, EROFS = 30,
                 ENAMETOOLONG = 36, EOVERFLOW = 75 }
for name, number in pairs(errors) do M[name] = -number end

-- Sends [0xf000] bytes from 0x1000, fetches [0xf002] bytes to 0x8000, halts, and again.
local WIRE <const> = [[
  8b 0e 00 f0   ; mov cx, [0xf000]
  be 00 10      ; mov si, 0x1000
  ba 78 02      ; mov dx, 0x278
  fc            ; cld
  f3 6e         ; rep outsb
  8b 0e 02 f0   ; mov cx, [0xf002]
  bf 00 80      ; mov di, 0x8000
  f3 6c         ; rep insb
  f4            ; hlt
  eb e7         ; jmp to the start
]]

-- Makes the call whose block [0xf000] points to, leaves its answer at 0xf004, halts, and again.
local BLOCK <const> = [[
  ba 7c 02      ; mov dx, 0x27c
  66 a1 00 f0   ; mov eax, [0xf000]
  66 ef         ; out dx, eax
  66 ed         ; in eax, dx
  66 a3 04 f0   ; mov [0xf004], eax
  f4            ; hlt
  eb ee         ; jmp to the start
]]

local BLOCK_AT <const>, BUFFER_AT <const> = 0x1000, 0x10000

---@class filesguest  open, close, read, write, seek, stat: results as the guest sees them
local Guest = {}
Guest.__index = Guest

local function step(self)
  local reason, info = self.vm:run{ deadline = 20 }
  assert(reason == "halt", info.text)
end

---Byte protocol: sends bytes, fetches `count` bytes.
function Guest:wire(bytes, count)
  self.vm.memory:write(0x1000, bytes)
  self.vm.memory:write(0xf000, ("<I2I2"):pack(#bytes, count))
  step(self)
  return self.vm.memory:read(0x8000, count)
end

local function command(self, format, ...)
  return (("<i4"):unpack(self:wire(("<" .. format):pack(...), 4)))
end

---Block protocol: makes a call; the answer of IN32 and the result in the block.
function Guest:call(op, flags, fd, count, address, offset, at)
  at = at or BLOCK_AT
  local block = ("<I4I4i4I4i8i8i8"):pack(op, flags, fd, count & 0xffffffff, address, offset, 0x55)
  self.vm.memory:write(at, block)
  return self:raw_call(at)
end

---The same with the block that is there.
function Guest:raw_call(at)
  self.vm.memory:write(0xf000, ("<I4"):pack(at))
  step(self)
  local inside = at + 40 <= #self.vm.memory
  return ("<i4"):unpack(self.vm.memory:read(0xf004, 4)),
         inside and ("<i8"):unpack(self.vm.memory:read(at + 32, 8)) or nil
end

local byte = {}

function byte:open(name, flags) return command(self, "BBs1", 1, flags, name) end -- length: one byte
function byte:close(fd) return command(self, "Bi4", 2, fd) end
function byte:seek(fd, offset, whence) return command(self, "Bi4i4B", 5, fd, offset, whence) end
function byte:stat(fd) return command(self, "Bi4", 6, fd) end
function byte:write(fd, data) return command(self, "Bi4s4", 4, fd, data) end

function byte:read(fd, count)
  local n = command(self, "Bi4i4", 3, fd, count)
  return n, n > 0 and self:wire("", n) or ""
end

local block = {}

function block:open(name, flags)
  self.vm.memory:write(BUFFER_AT, name)
  return (self:call(1, flags, 0, #name, BUFFER_AT, 0))
end

function block:close(fd) return (self:call(2, 0, fd, 0, 0, 0)) end
function block:seek(fd, offset, whence) return (self:call(5, whence, fd, 0, 0, offset)) end
function block:stat(fd) return (self:call(6, 0, fd, 0, 0, 0)) end

function block:write(fd, data)
  self.vm.memory:write(BUFFER_AT, data)
  return (self:call(4, 0, fd, #data, BUFFER_AT, 0))
end

function block:read(fd, count)
  local n = self:call(3, 0, fd, count, BUFFER_AT, 0)
  return n, n > 0 and self.vm.memory:read(BUFFER_AT, n) or ""
end

local METHODS <const> = { byte = byte, block = block }

---A guest that does what its methods say, one run each.
---@param protocol "byte"|"block"
---@param policy minikvm.files?
---@param opts table?  more options of the VM
function M.guest(protocol, policy, opts)
  local o = { files = policy, coalesce = false }
  for key, value in pairs(opts or {}) do o[key] = value end
  local self = setmetatable({ protocol = protocol }, Guest)
  for name, method in pairs(METHODS[protocol]) do self[name] = method end
  self.vm = support.code(protocol == "byte" and WIRE or BLOCK, o)
  return self
end

-- Everything in the file, by a descriptor of its own.
function Guest:content(name)
  local fd = self:open(name, M.READ)
  if fd < 0 then return nil, fd end
  local _, data = self:read(fd, 25000)
  self:close(fd)
  return data
end

---Makes a file that holds `data`.
function Guest:put(name, data)
  local fd = self:open(name, M.WRITE | M.TRUNC)
  assert(fd >= 0, fd)
  assert(self:write(fd, data) == #data)
  self:close(fd)
end

-- Folders

M.folder = program.folder

function M.remove(path)
  os.execute(("rm -rf '%s'"):format(path))
end

function M.put(path, data)
  local file <close> = assert(io.open(path, "wb"))
  file:write(data)
end

M.get = support.read_file

---Names in a folder, sorted.
function M.names(path)
  local names = {}
  for name in lfs.dir(path) do
    if name ~= "." and name ~= ".." then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

return M
