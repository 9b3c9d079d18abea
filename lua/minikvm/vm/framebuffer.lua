-- vm/framebuffer.lua - a linear framebuffer: a region of guest memory that is a picture, 32 bits a
-- pixel: blue, green, red, and a byte that nobody looks at. Boot protocols tell kernels of it;
-- vm:screen() shows it.
--
-- The region's name says its size, so that snapshots, forks and files have all there is to know:
--   vm.memory:map{ at = 0xe0000000, size = 640 * 480 * 4, name = "framebuffer 640x480" }

local core = require "minikvm.core"
local options = require "minikvm.options"

local M = {}

M.AT = 0xe0000000 -- where the one of a boot protocol is: below 4 GiB, beyond a VM's own RAM
M.DEPTH = 32
local WIDTH <const>, HEIGHT <const> = 1024, 768 -- for who does not say
local SIDE_MAX <const>, BYTES_MAX <const> = 8192, 64 << 20
local PAGE <const> = 4096

---@class minikvm.framebuffer
---@field at integer  guest-physical
---@field width integer  pixels
---@field height integer
---@field pitch integer  bytes from a line to the next one
---@field bytes integer  of all lines

---By VM, the handle of the region that loading an image has made.
local handles = setmetatable({}, { __mode = "k" })

---@return minikvm.framebuffer? framebuffer  nil when it has no such size
local function new(at, width, height)
  if width < 1 or height < 1 or width > SIDE_MAX or height > SIDE_MAX then return nil end
  local pitch = width * M.DEPTH // 8
  if pitch * height > BYTES_MAX then return nil end
  return { at = at, width = width, height = height, pitch = pitch, bytes = pitch * height }
end

local side <const> = options.between(1, SIDE_MAX, ("pixels, 1 to %d"):format(SIDE_MAX))
local PIXELS <const> = options.declare("vm:load.framebuffer", { width = side, height = side })

---The option `framebuffer` of vm:load: { width=, height= }, or false: there is none.
function M.check(value)
  if value == false then return false end
  if type(value) ~= "table" then
    return nil, ("expected { width=, height= } or false, got %s"):format(tostring(value))
  end
  local o = options.check("vm:load: framebuffer", value, PIXELS)
  local made = new(M.AT, o.width or WIDTH, o.height or HEIGHT)
  if made then return made end
  return nil, ("%d x %d pixels are more than %d MiB"):format(o.width or WIDTH, o.height or HEIGHT,
                                                             BYTES_MAX >> 20)
end

---The framebuffer of a VM; nil when it has none.
---@param vm minikvm.vm
---@return minikvm.framebuffer?
function M.of(vm)
  for _, r in ipairs(vm.memory:regions()) do
    local width, height = r.name:match "^framebuffer (%d%d?%d?%d?)x(%d%d?%d?%d?)$"
    local made = width and new(r.at, math.tointeger(width), math.tointeger(height))
    if made and made.bytes <= r.size then return made end
  end
end

---What a kernel gets: what was asked for when it was loaded, what the VM has, what the kernel asks
---for in its header.
---@param want minikvm.image.want
---@param asked { width: integer, height: integer }?  0: it does not matter; nil: not at all
---@return minikvm.framebuffer?
function M.choose(want, asked)
  if want.framebuffer == false then return nil end
  local wanted = want.framebuffer or want.has_framebuffer
  if wanted or not asked then return wanted end
  local width = asked.width > 0 and asked.width or WIDTH
  local height = asked.height > 0 and asked.height or HEIGHT
  return new(M.AT, width, height) or new(M.AT, WIDTH, HEIGHT)
end

local function same(a, b)
  return a.at == b.at and a.width == b.width and a.height == b.height
end

local function map_region(vm, framebuffer)
  return core.memory_map(vm.memory, {
    at = framebuffer.at, size = (framebuffer.bytes + PAGE - 1) // PAGE * PAGE,
    name = ("framebuffer %dx%d"):format(framebuffer.width, framebuffer.height) })
end

---Gives a VM this framebuffer. Returns what puts the one in its place again, blank, that was there
---before; or nil, why, code.
---@param vm minikvm.vm
---@param wanted minikvm.framebuffer
---@return function? undo
---@return string? why
---@return string? code
function M.map(vm, wanted)
  local there = M.of(vm)
  if there and same(there, wanted) then return function() end end
  if there and not handles[vm] then
    return nil, ("the VM has a framebuffer of %d x %d pixels at 0x%x"):format(
      there.width, there.height, there.at), "EEXIST"
  end
  local function put_back() handles[vm] = there and map_region(vm, there) end
  if there then handles[vm]:remove() end
  local handle, why, code = map_region(vm, wanted)
  if not handle then
    put_back()
    return nil, why, code
  end
  handles[vm] = handle
  return function()
    handle:remove()
    put_back()
  end
end

-- ---- as a picture ----

---One line of pixels as red, green, blue, each of them `scale` times.
local function line_of(bytes, scale)
  local pixel = "%3%2%1"
  return (bytes:gsub("(.)(.)(.).", pixel:rep(scale)))
end

---The picture as lines of three bytes a pixel.
---@param vm minikvm.vm
---@param framebuffer minikvm.framebuffer
---@return string[]
function M.lines(vm, framebuffer, scale)
  local lines, known = {}, {}
  for y = 0, framebuffer.height - 1 do
    local bytes = vm.memory:read(framebuffer.at + y * framebuffer.pitch, framebuffer.pitch)
    known[bytes] = known[bytes] or line_of(bytes, scale)
    for _ = 1, scale do lines[#lines + 1] = known[bytes] end
  end
  return lines
end

---@return integer red, integer green, integer blue  0 to 255
function M.pixel(vm, framebuffer, x, y)
  local bytes = vm.memory:read(framebuffer.at + y * framebuffer.pitch + x * 4, 3)
  local blue, green, red = bytes:byte(1, 3)
  return red, green, blue
end

return M
