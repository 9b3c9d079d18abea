-- image/mode.lua - the mode of a VM for which nobody chose one, and what to say when the one that
-- was chosen is not that of the image.

local core = require "minikvm.core"
local guess = require "minikvm.image.guess"
local images = require "minikvm.image"
local planner = require "minikvm.image.plan"

local M = {}

local RAM_REAL <const>, RAM_USUAL <const> = 1 << 20, 4 << 20 -- of VMs that are not told
local MOST_GIB <const> = 64 -- that a VM can have

---The mode that an image is for; and its format, where that is decided with it.
local function choose(source, o, linux)
  if o.format == "flat" or o.format == "boot" then return "real" end
  if o.format == "multiboot" or o.format == "pvh" then return "protected" end
  if o.format == "linux" then return "long" end
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
  if layout.memory_open then there.memory = mode == "real" and RAM_REAL or RAM_USUAL end
  planner.make(source, images.want(vm, there, o))
  local set, why, code = core.set_mode(vm, mode)
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
      and "; RAM is 4M unless memory= (minikvm run: --memory) says otherwise" or ""
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
