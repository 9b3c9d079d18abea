-- debug/coverage_map.lua - the record that a guest keeps itself of what it reached, in its own
-- memory: a byte for each block, at an index made of the block's address
-- (guests/long/lib_coverage.c).

local core = require "minikvm.core"
local images = require "minikvm.image"
local symbols = require "minikvm.image.symbols"

local M = {}

local MAP <const> = "minikvm_coverage_map"

---Reads as much of the map as is mapped.
---@return string
function M.read(machine, map)
  local pieces, at = {}, map.address
  while at < map.address + map.size do
    local size = math.min(4096 - at % 4096, map.address + map.size - at)
    local bytes = core.linear_read(machine.cpu[0], at, size)
    pieces[#pieces + 1] = bytes .. ("\0"):rep(size - #bytes)
    at = at + size
  end
  return table.concat(pieces)
end

---Blocks that keep their own record, by where in the map.
---@return integer[] blocks
---@return table<integer, integer[]> by_index
function M.recorded(code, map)
  local list, by_index, first, last, at = {}, {}, nil, nil, 1
  for _, address in ipairs(code.calls) do
    while at < code.count and not math.ult(address - 1, code.address[at + 1]) do at = at + 1 end
    local index = address % map.size
    by_index[index] = by_index[index] or {}
    table.insert(by_index[index], at)
    if list[#list] ~= at then list[#list + 1] = at end
    first, last = first or address, address
  end
  if first and last - first >= map.size then
    core.blame(("vm:coverage: the guest's map of %d bytes is too small for code of %d: compile "
      .. "lib_coverage.c with -DMINIKVM_COVERAGE_SIZE="):format(map.size, last - first))
  end
  return list, by_index
end

---Where the map is, by its symbol.
---@return { address: integer, size: integer } map
function M.of(machine)
  for _, image in ipairs(images.objects(machine)) do
    local t = image.plan.format ~= "flat" and symbols.of(image.source)
    local n = t and t.by_name[MAP]
    if n and t.sizes[n] > 0 then
      local map = { address = symbols.to_memory(image, t.values[n]), size = t.sizes[n] }
      if map.size & map.size - 1 == 0 then return map end
      core.blame(("vm:coverage: %s has %d bytes, which is no power of two"):format(MAP, map.size))
    end
  end
  core.blame(("vm:coverage: no image of vm %q has a symbol %s: link guests/long/lib_coverage.c, "
    .. "and compile what is to be covered with -fsanitize-coverage=trace-pc"):format(machine.name,
    MAP))
end

---Zeros a guest's map.
function M.clear(machine, map)
  for at = map.address, map.address + map.size - 1, 4096 do
    local physical = machine.cpu[0]:translate(at)
    local size = math.min(4096, map.address + map.size - at)
    if physical then machine.memory:write(physical, ("\0"):rep(size)) end
  end
end

return M
