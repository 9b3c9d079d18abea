-- image/saved.lua - what a snapshot's file keeps of images and files with symbols: where each file
-- is, what was in it, and where its parts lie. A VM that is made from it knows symbols and source
-- lines as long as the files are the same.

local copy = require "minikvm.copy"
local core = require "minikvm.core"
local images = require "minikvm.image"
local sources = require "minikvm.image.source"

local M = {}

-- By list of images, its bytes: it is never changed once it is made.
local packed = setmetatable({}, { __mode = "k" })
-- By VM, why files of its snapshot are not known any more.
local problems = setmetatable({}, { __mode = "k" })

---Text that tells whether a file has the same contents.
local function contents(source)
  if not source.bytes then return source.identity end
  source.contents = source.contents
    or ("%d.%08x"):format(#source.bytes, core.crc32(source.bytes))
  return source.contents
end

local function record(image)
  local source, plan = image.source, image.plan
  if not source.path or plan.format == "flat" then return nil end
  local segments = {}
  for i, s in ipairs(plan.segments) do
    segments[i] = { at = s.at, linear = s.linear, mem_bytes = s.mem_bytes }
  end
  return { path = source.path, name = source.name, contents = contents(source),
           format = plan.format, slide = plan.slide, real = plan.real, entry = plan.entry,
           segments = segments }
end

local function pack_list(list)
  if not list or #list == 0 then return nil end
  if not packed[list] then
    local records = {}
    for _, image in ipairs(list) do records[#records + 1] = record(image) end
    packed[list] = copy.pack(records, "images")
  end
  return packed[list]
end

---What is known of a VM's files, as bytes; nil when there are none.
---@return string? images
---@return string? symbol_files
function M.pack(vm)
  local loaded, files = images.get(vm)
  return pack_list(loaded), pack_list(files)
end

local function is_number(value) return math.type(value) == "integer" end

---Whether a record of a file, which may hold anything, is one.
local function is_record(r)
  if type(r) ~= "table" or type(r.path) ~= "string" or type(r.name) ~= "string"
     or type(r.segments) ~= "table" or type(r.format) ~= "string" or r.path:find "%z"
     or r.slide ~= nil and not is_number(r.slide) or r.entry ~= nil and not is_number(r.entry) then
    return false
  end
  for _, s in ipairs(r.segments) do
    if type(s) ~= "table" or not (is_number(s.at) and is_number(s.linear)
                                  and is_number(s.mem_bytes)) then
      return false
    end
  end
  return r.real ~= true or #r.segments > 0
end

---The image that a record is of; nil and why when its file is another one now.
local function recall(vm, r)
  if not is_record(r) then return nil, "what the snapshot has of an image is damaged" end
  local ok, source = pcall(sources.open, vm, r.path)
  if not ok then return nil, type(source) == "table" and source.text or tostring(source) end
  if contents(source) ~= r.contents then
    source:close()
    return nil, r.path .. ": it was written to since the snapshot was taken"
  end
  source.name = r.name
  if r.format == "symbols" then require("minikvm.image.symbol_file").read(source) end
  return { source = source, plan = { format = r.format, segments = r.segments, slide = r.slide,
                                     real = r.real, entry = r.entry } }
end

local function recall_list(vm, bytes)
  local list, records = {}, bytes and copy.unpack(bytes)
  for _, r in ipairs(type(records) == "table" and records or {}) do
    local image, why = recall(vm, r)
    list[#list + 1] = image
    if why then problems[vm] = why end
  end
  return list
end

---What a snapshot's file has of the VM that it was taken of, for this VM.
---@return table images
---@return table symbol_files
function M.unpack(vm, loaded, files)
  return recall_list(vm, type(loaded) == "string" and loaded or nil),
         recall_list(vm, type(files) == "string" and files or nil)
end

---Why symbols of a VM are not known that its snapshot had.
---@return string?
function M.problem(vm) return problems[vm] end

return M
