-- image/tables.lua - what minikvm itself keeps in RAM in all modes but real: the page with GDT,
-- TSS, IDT and boot information, and page tables. They give way when an image wants their place.

local plan = require "minikvm.image.plan"

local overlap, refuse = plan.overlap, plan.refuse

local M = {}

local PAGE <const> = 4096
local GIB <const> = 1 << 30
local HIGH_BASE <const> = 0x80000000 -- paged mode: where RAM appears once more
local TABLES_FIRST <const>, TABLES_LAST <const>, COMMAND_LINE <const> = 0x500, 0x1000, 0xe40
local PAGE_DIRECTORY <const> = 0x100000
local CONVENTIONAL <const> = 0xa0000 -- the end of a PC's low memory: its BIOS keeps data below it
local STACK <const> = 0x10000 -- left free at the top of RAM, or a quarter of it, for guests' stacks

---@class minikvm.image.block
---@field what string  for messages
---@field at integer  a page
---@field from integer  what is in use: bytes from here
---@field to integer  to here, relative to `at`
---@field usual integer  where it is unless an image wants that place
---@field limit integer  it ends at or below this

local function low_block(layout)
  local most = layout.memory
  if layout.mode == "paged" then most = math.min(most, GIB) end
  if layout.mode == "long" and layout.map_size ~= 0 then most = math.min(most, layout.map_size) end
  return { what = "the GDT, the IDT and the boot information", at = layout.low, usual = 0,
           from = TABLES_FIRST, to = layout.cmdline ~= "" and TABLES_LAST or COMMAND_LINE,
           limit = math.min(most, 4 * GIB) }
end

local function directory_block(layout)
  return { what = "the page directory", at = layout.tables, usual = PAGE_DIRECTORY, from = 0,
           to = PAGE, limit = math.min(layout.memory, 4 * GIB) }
end

---Below the tables lie the stacks: a page for the last vCPU, and room for those of the others.
local function tables_block(layout)
  local stacks = PAGE + layout.stacks
  local size = layout.tables_end - layout.tables + stacks
  return { what = "the page tables and the stack below them", at = layout.tables - stacks, from = 0,
           to = size, usual = (layout.memory & -PAGE) - size, limit = layout.memory }
end

---What minikvm keeps in a VM's RAM.
---@param layout table  of core.layout
---@return minikvm.image.block[]
local function blocks(layout)
  return { low_block(layout), layout.mode == "paged" and directory_block(layout)
             or layout.mode == "long" and tables_block(layout) or nil }
end

---What an image is to stay clear of, and the rest of what a mode with tables wants.
---@param images { plan: minikvm.image.plan }[]  that are in the VM
function M.want(want, layout, images)
  want.bits = want.mode == "long" and 64 or 32
  want.paging = want.mode ~= "protected"
  want.stacks = layout.stacks
  want.high = want.mode == "paged" and HIGH_BASE or layout.map_base
  want.blocks = layout.tables and blocks(layout)
  want.busy = {}
  for _, image in ipairs(images) do
    table.move(image.plan.segments, 1, #image.plan.segments, #want.busy + 1, want.busy)
  end
end

---The ranges that a block must not touch.
local function others(want, made, mine)
  local list = {}
  for _, s in ipairs(made.segments) do list[#list + 1] = { s.at, s.mem_bytes } end
  for _, s in ipairs(want.busy or {}) do list[#list + 1] = { s.at, s.mem_bytes } end
  for _, block in ipairs(want.blocks) do
    if block ~= mine then list[#list + 1] = { block.at + block.from, block.to - block.from } end
  end
  return list
end

local function collision(block, at, ranges)
  for _, r in ipairs(ranges) do
    if overlap(at + block.from, block.to - block.from, r[1], r[2]) then return r[1] end
  end
end

---The highest free page below `top` where the block can be; nil when there is none. Each step goes
---below a range.
local function below(block, top, ranges)
  local at = (math.min(top, block.limit) - block.to) & -PAGE
  while at >= PAGE do
    local hit = collision(block, at, ranges)
    if not hit then return at end
    at = math.min((hit - block.to) & -PAGE, at - PAGE)
  end
end

local function new_place(block, ranges, stacks)
  if block.usual + block.to <= block.limit and not collision(block, block.usual, ranges) then
    return block.usual
  end
  local top = block.limit - math.min(STACK + stacks, block.limit // 4)
  return below(block, math.min(CONVENTIONAL, top), ranges) or below(block, top, ranges)
    or below(block, block.limit, ranges)
end

---Moves what the image's segments lie over, in want.blocks.
function M.place(source, want, made)
  for _, block in ipairs(want.blocks) do
    local wanted = false
    for _, s in ipairs(made.segments) do
      wanted = wanted or overlap(block.at + block.from, block.to - block.from, s.at, s.mem_bytes)
    end
    if wanted then
      block.at = new_place(block, others(want, made, block), want.stacks or 0)
        or refuse(source, "EFBIG", "it leaves no room in RAM for %s", block.what)
    end
  end
end

---Where the tables are then, as core.set_entry takes it.
---@return { low: integer, tables: integer, tables_end: integer }
function M.places(layout, list)
  local places = { low = layout.low, tables = layout.tables, tables_end = layout.tables_end }
  if not list then return places end
  places.low = list[1].at
  if layout.mode == "paged" then
    places.tables = list[2].at
  elseif layout.mode == "long" then
    places.tables = list[2].at + PAGE + layout.stacks
    places.tables_end = list[2].at + list[2].to
  end
  return places
end

return M
