-- stats.lua - vm:stats(): what each port, range and MSR cost; as a table for people, and as JSON.

local class = require "minikvm.class"
local core = require "minikvm.core"
local json = require "minikvm.json"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local M = {}

local vm = core.methods "minikvm.vm"

local Stats, meta = class "minikvm.stats"

local mark = strict.record("stats.row", "a row of vm:stats", { "kind", "first", "last", "owner",
                           "accesses", "no_exit", "c", "lua", "seconds" })

local function row(kind, r)
  local exits = r.hits - r.coalesced
  return mark{
    kind = kind, first = r.first, last = r.last, owner = r.owner or "nobody", accesses = r.hits,
    no_exit = r.coalesced,
    c = r.owner and not r.script and exits or 0, lua = r.script and exits or 0,
    seconds = r.seconds,
  }
end

local function busiest(a, b)
  if a.accesses ~= b.accesses then return a.accesses > b.accesses end
  if a.kind ~= b.kind then return a.kind < b.kind end
  if a.first ~= b.first then return a.first < b.first end
  return a.owner < b.owner
end

local function where(r)
  local kind = r.kind == "mmio" and "" or r.kind .. " "
  if r.first == r.last then return ("%s0x%x"):format(kind, r.first) end
  return ("%s0x%x-0x%x"):format(kind, r.first, r.last)
end

---The rows as lines of a table, the busiest first.
---@return string
function meta:__tostring()
  local lines = { ("%-22s %10s %10s %10s %10s %10s  %s"):format(
    "where", "accesses", "no exit", "in C", "in Lua", "ms", "served by") }
  for _, r in ipairs(self) do
    lines[#lines + 1] = ("%-22s %10d %10d %10d %10d %10.3f  %s"):format(
      where(r), r.accesses, r.no_exit, r.c, r.lua, r.seconds * 1e3, r.owner)
  end
  return table.concat(lines, "\n")
end

---The rows as values that JSON has: addresses as text.
---@param rows minikvm.stats.row[]
---@return table[]
function M.plain(rows)
  local list = {}
  for i, r in ipairs(rows) do
    list[i] = { kind = r.kind, first = json.hex(r.first), last = json.hex(r.last), owner = r.owner,
                accesses = r.accesses, no_exit = r.no_exit, c = r.c, lua = r.lua,
                seconds = r.seconds }
  end
  return json.list(list)
end

---The rows as JSON: a list of objects with the rows' fields, addresses as text ("0x3f8").
---@return string
function Stats:json() return json.encode(M.plain(self)) end

local OPTIONS <const> = options.declare("vm:stats", { timing = "boolean", all = "boolean" })

---What was accessed so far, the busiest first; tostring() makes it a table to read. Times are
---measured while timing is on: `kvm.vm{ stats = true }`, or `timing` here from now on.
---@param opts? { timing: boolean?, all: boolean? }  all: rows without accesses too
---@return minikvm.stats.row[]
function vm:stats(opts)
  options.self("vm:stats", self, "minikvm.vm")
  local o = options.check("vm:stats", opts, OPTIONS)
  local rows = setmetatable({}, meta)
  for _, kind in ipairs{ "port", "mmio", "msr" } do
    for _, r in ipairs(core.stats(self, kind)) do
      if r.hits > 0 or o.all then rows[#rows + 1] = row(kind, r) end
    end
  end
  if o.timing ~= nil then core.timing(self, o.timing) end
  table.sort(rows, busiest)
  return rows
end

return M
