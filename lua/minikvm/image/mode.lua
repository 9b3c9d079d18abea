-- image/mode.lua - the mode of a VM for which nobody chose one, and what to say when the one that
-- was chosen is not that of the image.

local core = require "minikvm.core"
local guess = require "minikvm.image.guess"
local images = require "minikvm.image"
local planner = require "minikvm.image.plan"

local M = {}

-- Of VMs that are not told; the last for kernels that come with a boot loader's protocol.
local RAM_REAL <const>, RAM_USUAL <const>, RAM_KERNEL <const> = 1 << 20, 4 << 20, 256 << 20
local MOST_GIB <const> = 64 -- that a VM can have

local PROTECTED <const> = { multiboot = true, multiboot2 = true, pvh = true }
local ROOMY <const> = { multiboot = true, multiboot2 = true, limine = true, pvh = true }

---Bytes of RAM in a VM for which nobody chose.
local function usual_memory(mode, source, o)
  if mode == "real" then return RAM_REAL end
  local format = o.format
    or planner.detect(source, { bits = mode == "long" and 64 or 32, paging = mode == "paged" })
  return ROOMY[format] and RAM_KERNEL or RAM_USUAL
end

---The mode that an image is for; and its format, where that is decided with it.
local function choose(source, o, linux)
  if o.format == "flat" or o.format == "boot" then return "real" end
  if PROTECTED[o.format] then return "protected" end
  if o.format == "linux" or o.format == "limine" then return "long" end
  local mode, format = planner.mode(source)
  if linux then return mode == "protected" and mode or "long" end
  if format == "linux" then return "real" end -- where it is refused: it takes more than a mode
  local placed = o.at or o.segment or o.entry
  if mode == "real" then return mode, not placed and not o.format and format or nil end
  if not mode or (o.at or o.segment) and mode ~= "long" then return "real" end
  return mode
end

---Gives a VM the mode that the image is for, when it could be loaded then.
---@param layout table  of core.layout
---@return table layout  as it is then
function M.settle(vm, layout, source, o)
  local made = require("minikvm.vm").made[vm] -- a fork is made like this VM
  local mode, format = choose(source, o, made and made.linux)
  o.format = format or o.format
  if mode == layout.mode then return layout end
  local there = setmetatable({ mode = mode, tables = false }, { __index = layout })
  if layout.memory_open then there.memory = usual_memory(mode, source, o) end
  planner.make(source, images.want(vm, there, o))
  local set, why, code = core.set_mode(vm, mode, there.memory)
  if not set then planner.refuse(source, code, "%s", why) end
  if made then made.mode, made.memory, made.mode_open = mode, #vm.memory, false end
  return core.layout(vm, o.cpu or 0)
end

---What to add to the message about an image that was refused in a mode that it is not for.
---@return string
function M.hint(vm, source, layout, o, text)
  local made = require("minikvm.vm").made[vm]
  if o.format or text:find("mode=", 1, true) or made and made.linux then return "" end
  local ok, mode, format = pcall(planner.mode, source)
  if ok and mode and mode ~= "real" and layout.mode_open then -- it was tried in that mode
    local at = layout.memory_open and text:match "at (0x%x+): there is room for"
    return at and math.ult(tonumber(at) >> 30, MOST_GIB)
      and ("; RAM is %dM unless memory= (minikvm run: --memory) says otherwise"):format(
        usual_memory(mode, source, o) >> 20) or ""
  elseif ok and mode and mode ~= layout.mode then
    return ("; it looks like an image for %s"):format(planner.as_mode(mode))
  elseif ok and format == "boot" then
    return "; it looks like a disk: format=\"boot\" loads its boot sector"
  elseif ok and not mode and layout.mode_open then
    local looks = guess.sentence(source.head, source.size, planner.as_mode)
    return "; mode= (minikvm run: --mode) was not given, and the image does not say: it is \"real\""
      .. (looks and "; " .. looks or "")
  end
  return ""
end

return M
