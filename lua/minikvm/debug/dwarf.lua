-- debug/dwarf.lua - the debugging information of a VM's images, by libdw (src/lua/dwarf.c).
--
-- It is opened when somebody asks for the first time. An image without any does not load the
-- library. Addresses are linear here; those of the core are the file's. The same bytes in several
-- VMs are opened once.

local core = require "minikvm.core"
local images = require "minikvm.image"
local plan = require "minikvm.image.plan"
local symbols = require "minikvm.image.symbols"

local M = {}

-- By the bytes of a file, what was opened of it.
local opened = setmetatable({}, { __mode = "v" })

local LINES <const> = { ".debug_info", ".zdebug_info" }
local FRAMES <const> = { ".debug_frame", ".eh_frame" }

---Whether files may be opened that an image names: not for a script of `minikvm --safe`.
local function may_split() return not package.loaded["minikvm.cli.safe"] end

local function has_one(source, names)
  for _, name in ipairs(names) do
    if symbols.section(source, name) then return true end
  end
  return false
end

local function open_source(source)
  if source.bytes then return core.dwarf.open(source.path, source.bytes, may_split()) end
  source:read(0, 1) -- raises when the file is not what was loaded any more
  return core.dwarf.open(nil, source.file, may_split(), source.vm)
end

local function open(source)
  local lines = has_one(source, LINES)
  if not lines and not has_one(source, FRAMES) then return nil end
  local info, why = source.bytes and opened[source.bytes], nil
  if not info then info, why = open_source(source) end
  if source.bytes and not why then opened[source.bytes] = info end
  return info, lines and why or nil
end

---The debugging information of an image; nil when it has none, nil and why when it cannot be read.
---@param image { source: minikvm.image.source, plan: minikvm.image.plan }
---@return minikvm.dwarf? info
---@return string? why
function M.of(image)
  local source = image.source
  if source.dwarf == nil and plan.is_elf_image(image) then
    local ok, info, why = pcall(open, source)
    if not ok then info, why = nil, type(info) == "table" and info.text or tostring(info) end
    source.dwarf, source.dwarf_problem = info or false, why
  end
  return source.dwarf or nil, source.dwarf_problem
end

---Calls fn(info, address in the file, image) for each image that lies at a linear address, the one
---loaded last first, until it has an answer; where none has one, it may be a physical address.
---@return any ...  what fn returned
function M.ask(vm, address, fn)
  local list = images.objects(vm)
  for _, physical in ipairs{ false, true } do
    for i = #list, 1, -1 do
      local there = symbols.to_file(list[i], address, physical)
      local info = there and M.of(list[i])
      if info then
        local answer = table.pack(fn(info, there, list[i]))
        if answer[1] ~= nil then return table.unpack(answer, 1, answer.n) end
      end
    end
  end
end

---Whether source lines are known of one of a VM's images.
---@return boolean
function M.any(vm)
  for _, image in ipairs(images.objects(vm)) do
    local info = M.of(image)
    if info and core.dwarf.count(info) > 0 then return true end
  end
  return false
end

---Why the images of a VM have symbols alone, though there is more in the files; nil when that is
---not so.
---@return string?
function M.problem(vm)
  for _, image in ipairs(images.objects(vm)) do
    local _, why = M.of(image)
    if why then return ("%s: source lines: %s"):format(image.source.name, why) end
  end
end

return M
