-- image/place.lua - what goes into RAM beside an image: modules and an initrd, what a kernel is
-- told of its machine. Whole pages that nothing else needs.

local core = require "minikvm.core"
local options = require "minikvm.options"
local plan = require "minikvm.image.plan"

local inside = plan.inside

local M = {}

local LOW_END <const>, HIGH_START <const> = 0xa0000, 0x100000
local PAGE <const>, BIOS_DATA <const> = 4096, 0x413
M.TOP = 0xffffffff -- addresses of 32 bits
M.HIGH_START = HIGH_START

-- ---- what is given with an image ----

local MODULE <const> = options.declare("vm:load.modules", {
  path = "text", bytes = "string", name = "text", text = "text",
})

---A module or an initrd: a path, or { path= | bytes=, name=, text= }.
---@param what string  for messages: "initrd", "modules[1]"
function M.check_module(what, value)
  if type(value) == "string" then return { path = value } end
  local where = "vm:load: " .. what
  local o = options.check(where, value, MODULE)
  if (o.path == nil) == (o.bytes == nil) then
    core.blame(where .. ": give either 'path' or 'bytes'")
  end
  o.name = o.name or not o.path and what or nil
  return o
end

---For the options of vm:load.
function M.check_modules(value)
  if type(value) ~= "table" then return nil, "expected a list of modules" end
  local list = {}
  for i, module in ipairs(value) do
    list[i] = M.check_module(("modules[%d]"):format(i), module)
  end
  return list
end

-- ---- RAM ----

---RAM as on a PC: first and last byte + 1, 1 for RAM, 2 for what a kernel had better leave alone.
---@param want minikvm.image.want
---@return integer[][]
function M.memory_map(want)
  local ram = want.limit
  local ranges = { { 0, math.min(ram, LOW_END), 1 } }
  if ram > LOW_END then ranges[2] = { LOW_END, math.min(ram, HIGH_START), 2 } end
  if ram > HIGH_START then ranges[3] = { HIGH_START, ram, 1 } end
  for _, r in ipairs(want.ranges or {}) do ranges[#ranges + 1] = { r[1], r[1] + r[2], 1 } end
  return ranges
end

function M.page_up(at)
  return (at + PAGE - 1) & ~(PAGE - 1)
end

---The next multiple of a power of 2, a page at least.
local function align_up(at, align)
  local step = math.max(align or 0, PAGE)
  return (at + step - 1) & -step
end

---How much RAM a kernel takes, an even number of MiB, as a sentence.
---@param top integer  where what it needs for itself ends
---@return string
function M.ram_it_takes(source, want, top)
  local bytes, even = top + PAGE, 2 << 20
  for _, block in ipairs(want.blocks or {}) do bytes = bytes + block.to end
  for _, m in ipairs(source.modules or {}) do bytes = bytes + M.page_up(m.size) end
  local mib = (bytes + even - 1) // even * 2
  local text = "it takes RAM of %d MiB at least: memory=\"%dM\" (minikvm: --memory %dM)"
  return text:format(mib, mib, mib)
end

---The ranges that are taken, from below: segments, what minikvm keeps, modules so far.
local function taken(want, made)
  local list = {}
  for _, s in ipairs(made.segments) do list[#list + 1] = { s.at, s.at + s.mem_bytes } end
  for _, block in ipairs(want.blocks or {}) do
    list[#list + 1] = { block.at + block.from, block.at + block.to }
  end
  for _, m in ipairs(made.modules or {}) do list[#list + 1] = { m.at, m.at + m.source.size } end
  table.sort(list, function(a, b) return a[1] < b[1] end)
  return list
end

---A PC's lower and upper memory: what lies below 640 KiB, and from 1 MiB on.
---@return integer lower  KiB
---@return integer upper
function M.kibibytes(want)
  return math.min(want.limit, LOW_END) // 1024,
         math.min(math.max(want.limit - HIGH_START, 0) // 1024, M.TOP)
end

---What a PC's BIOS leaves for kernels that look there: the size of low memory in KiB, at 0x413 (IBM
---PC/AT Technical Reference, "ROM BIOS Data Areas"); unless the image lies there.
---@return { at: integer, bytes: string }[]
function M.bios_data(want, made)
  if not M.is_free(setmetatable({ blocks = {} }, { __index = want }), made, BIOS_DATA, 2) then
    return {}
  end
  return { { at = BIOS_DATA, bytes = ("<I2"):pack((M.kibibytes(want))) } }
end

---Whether a place in RAM is free.
function M.is_free(want, made, at, bytes)
  for _, range in ipairs(taken(want, made)) do
    if at < range[2] and range[1] < at + bytes then return false end
  end
  return inside(at, bytes, math.min(want.limit, M.TOP))
end

---The first free place at or above `from`, page-aligned or more, below 4 GiB; nil when there is
---none.
---@param align integer?  a power of 2
---@return integer?
function M.above(want, made, bytes, from, align)
  local at, limit = align_up(from, align), math.min(want.limit, M.TOP)
  for _, range in ipairs(taken(want, made)) do -- in order, so that one pass is enough
    if at < range[2] and range[1] < at + bytes then at = align_up(range[2], align) end
  end
  return inside(at, bytes, limit) and at or nil
end

---The same; refused when there is none.
---@param what string  for messages
---@return integer
function M.find(source, want, made, what, bytes, from, align)
  return M.above(want, made, bytes, from, align)
    or plan.refuse(source, "EFBIG", "no room in RAM for %s of %d bytes: memory= (minikvm run: "
      .. "--memory) makes it larger", what, bytes)
end

---The address behind the kernel, in the second MiB at least.
function M.behind(made)
  local from = HIGH_START
  for _, s in ipairs(made.segments) do from = math.max(from, s.at + s.mem_bytes) end
  return from
end

---The highest free place that ends at or below `top`, page-aligned or more; nil when there is none
---at or above `from`.
---@param align integer?  a power of 2
---@return integer?
function M.below(want, made, bytes, top, from, align)
  local step = math.max(align or 0, PAGE)
  local list, at = taken(want, made), (math.min(top, want.limit, M.TOP) - bytes) & -step
  for i = #list, 1, -1 do
    local range = list[i]
    if at < range[2] and range[1] < at + bytes then at = (range[1] - bytes) & -step end
  end
  return at >= from and at or nil
end

return M
