-- debug/coverage.lua - vm:coverage: which blocks of a guest's code were executed, without compiling
-- it anew; as sets, and as tracefiles of lcov.
--
-- A breakpoint lies on each block (src/lua/coverage.c); its first hit is its last. Several VMs with
-- the same code, such as forks, share a coverage: what one has reached is not looked for in those
-- that come later. With `map`, a guest that was compiled with -fsanitize-coverage=trace-pc keeps
-- the record itself (guests/long/lib_coverage.c), and nothing is patched.

local by_line = require "minikvm.debug.coverage_lines"
local class = require "minikvm.class"
local code_of = require "minikvm.debug.code"
local core = require "minikvm.core"
local lcov = require "minikvm.debug.lcov"
local maps = require "minikvm.debug.coverage_map"
local options = require "minikvm.options"
local set_of = require "minikvm.debug.set"
local strict = require "minikvm.strict"

local M = {}

local vm = core.methods "minikvm.vm"

local HITS <const> = 16 -- of a branch that nothing else tells of, in each VM
local TAKEN <const>, NOT_TAKEN <const> = code_of.TAKEN, code_of.NOT_TAKEN
local CALLED <const> = "__sanitizer_cov_trace_pc"

---@class minikvm.coverage
local Coverage, meta = class "minikvm.coverage"

-- By coverage, what is behind it: { code=, options=, blocks = list of their numbers, reached = {
-- [block] = true }, fresh = list of those that take() has not told, seen = { [branch] = bits },
-- parts = list of what is in VMs, which are not kept }.
local states = setmetatable({}, { __mode = "k" })
local of_vm = setmetatable({}, { __mode = "k" }) -- by VM or snapshot, the set of its coverages
local shared = setmetatable({}, { __mode = "k" }) -- by VM, the one of share()

strict.seal(Coverage, meta, "coverage", {})

local function check(self, who)
  options.self(who, self, "minikvm.coverage")
  return states[self]
end

local function weak(machine) return setmetatable({ machine }, { __mode = "v" }) end

-- ---- in a VM ----

---What code begins with, as the core takes it: how many bytes are known, and these.
local function packed_code(bytes) return ("<Bc7"):pack(#bytes, bytes) end

---What the VMs share: the blocks, and which of them were reached.
local function new_record(state)
  local addresses, code = {}, {}
  for n, i in ipairs(state.blocks) do
    addresses[n] = ("<i8"):pack(state.code.address[i])
    code[n] = packed_code(state.code.code[i])
  end
  return core.coverage_record(table.concat(addresses), table.concat(code))
end

---The branches that must be looked at, as records, and their numbers.
local function to_watch(state)
  local records, ids = {}, {}
  if not state.options.branches then return "", ids end
  for n, br in ipairs(code_of.branches(state.code)) do
    local need = (br.taken_known and 0 or TAKEN) | (br.not_taken_known and 0 or NOT_TAKEN)
    if need & ~(state.seen[n] or 0) ~= 0 and state.can_watch[br.block] then
      ids[#ids + 1] = n
      local code = state.code
      records[#records + 1] = ("<i8I4I4"):pack(code.last[br.block], code.condition[br.block],
        need & ~(state.seen[n] or 0)) .. packed_code(code.last_code[br.block])
    end
  end
  return table.concat(records), ids
end

local function start(state, machine)
  local records, branch_ids = to_watch(state)
  local object, why, code = core.coverage_start(machine, state.record, records, HITS)
  if not object then return nil, why, code end
  table.insert(state.parts, { object = object, branch_ids = branch_ids, machine = weak(machine) })
  return true
end

local function reach(state, i)
  if not state.reached[i] then
    state.reached[i] = true
    state.fresh[#state.fresh + 1] = i
  end
end

local function update_blocks(state)
  local bytes = core.coverage_reached(state.record)
  for at = 1, #bytes, 4 do
    local index = ("<I4"):unpack(bytes, at)
    reach(state, state.blocks[index + 1])
  end
end

---Whether there may be more.
local function update_branches(state, part)
  local seen, running = core.coverage_seen(part.object)
  for n, id in ipairs(part.branch_ids) do
    state.seen[id] = (state.seen[id] or 0) | seen:byte(n)
  end
  return running
end

local function update_map(state, machine)
  if not machine or machine.state == "closed" then return false end
  if machine.state == "running" then return true end
  for at in maps.read(machine, state.map):gmatch "()[^\0]" do
    for _, i in ipairs(state.by_index[at - 1] or {}) do reach(state, i) end
  end
  return true
end

---Looks at all VMs.
local function update(state)
  local left = {}
  if state.record then update_blocks(state) end
  for _, part in ipairs(state.parts) do
    local running
    if state.map then running = update_map(state, part.machine[1])
    else running = update_branches(state, part) end
    if running then left[#left + 1] = part end
  end
  state.parts = left
end

-- ---- what there is to reach ----

---Blocks that a breakpoint may be put on: not inside another instruction.
local function patchable(code)
  local list = {}
  for i = 1, code.count do
    if not code.shared[i] then list[#list + 1] = i end
  end
  return list
end

local function find_code(machine, o)
  local ok, code = pcall(code_of.of, machine, { labels = o.labels, called = o.map and CALLED })
  if not ok then
    core.blame("vm:coverage: " .. tostring(type(code) == "table" and code.text or code))
  end
  if not code then
    core.blame(("vm:coverage: vm %q has no image with symbols: load an ELF image, or give the file "
      .. "to vm:load_symbols"):format(machine.name))
  end
  return code
end

local function new_state(machine, o)
  local state = { code = find_code(machine, o), options = o, reached = {}, seen = {}, fresh = {},
                  parts = {}, can_watch = {} }
  if o.map then
    state.map = maps.of(machine)
    state.blocks, state.by_index = maps.recorded(state.code, state.map)
  else
    state.blocks = patchable(state.code)
    state.record = new_record(state)
  end
  for _, i in ipairs(state.blocks) do state.can_watch[i] = true end
  return state
end

-- ---- methods ----

---Has another VM covered, too, whose code is the same: the same files at the same place.
---@param machine minikvm.vm
---@return minikvm.coverage? self  or nil, "what: why", "ENAME"
---@return string? why
---@return string? code
function Coverage:attach(machine)
  local state = check(self, "coverage:attach")
  if core.kind(machine) ~= "minikvm.vm" then
    core.blame(("coverage:attach: expected a vm, got a %s"):format(type(machine)))
  end
  core.check_open(machine)
  if of_vm[machine] and of_vm[machine][self] then return self end
  if find_code(machine, state.options).key ~= state.code.key then
    core.blame(("coverage:attach: vm %q has other code"):format(machine.name))
  end
  update(state)
  if state.map then
    table.insert(state.parts, { machine = weak(machine) })
  else
    local done, why, code = start(state, machine)
    if not done then return nil, why, code end
  end
  of_vm[machine] = of_vm[machine] or {}
  of_vm[machine][self] = true
  return self
end

local function set_of_blocks(state, list)
  local addresses = {}
  for n, i in ipairs(list) do addresses[n] = state.code.address[i] end
  return set_of.new(addresses)
end

---The addresses of all blocks that can be reached.
---@return minikvm.set
function Coverage:blocks()
  local state = check(self, "coverage:blocks")
  return set_of_blocks(state, state.blocks)
end

---Those that were reached so far.
---@return minikvm.set
function Coverage:reached()
  local state = check(self, "coverage:reached")
  update(state)
  local list = {}
  for _, i in ipairs(state.blocks) do
    if state.reached[i] then list[#list + 1] = i end
  end
  return set_of_blocks(state, list)
end

---Those that were reached for the first time since the last call.
---@return minikvm.set
function Coverage:take()
  local state = check(self, "coverage:take")
  update(state)
  local fresh = state.fresh
  state.fresh = {}
  return set_of_blocks(state, fresh)
end

---Forgets what was reached: all blocks are looked for again.
---@return minikvm.coverage? self  or nil, "what: why", "ENAME"
function Coverage:reset()
  local state = check(self, "coverage:reset")
  update(state)
  state.reached, state.seen, state.fresh = {}, {}, {}
  if state.record then state.record = new_record(state) end
  local parts = state.parts
  state.parts = {}
  for _, part in ipairs(parts) do
    local machine = part.machine[1]
    if part.object then core.coverage_stop(part.object) end
    if state.map and machine then maps.clear(machine, state.map) end
    if state.map then table.insert(state.parts, part) end
    if not state.map and machine then
      local done, why, code = start(state, machine)
      if not done then return nil, why, code end
    end
  end
  return self
end

---Takes its breakpoints out of all VMs; what was reached stays.
---@return minikvm.coverage self
function Coverage:stop()
  local state = check(self, "coverage:stop")
  update(state)
  for _, part in ipairs(state.parts) do
    if part.object then core.coverage_stop(part.object) end
  end
  for _, coverages in pairs(of_vm) do coverages[self] = nil end
  state.parts = {}
  return self
end
meta.__close = Coverage.stop

local mark = strict.record("coverage.count", "coverage:count()", { "blocks", "reached", "shared" })

---How much there is and how much was reached.
---@return { blocks: integer, reached: integer, shared: integer }  shared: blocks inside another
---  instruction, which are left out
function Coverage:count()
  local state = check(self, "coverage:count")
  update(state)
  local reached = 0
  for _ in pairs(state.reached) do reached = reached + 1 end
  return mark{ blocks = #state.blocks, reached = reached,
               shared = state.map and 0 or state.code.count - #state.blocks }
end

function meta.__tostring(self)
  local count = self:count()
  return ("minikvm.coverage: %d of %d blocks"):format(count.reached, count.blocks)
end

-- ---- by source line ----

---Lines, functions and branches of the source files, as lcov.lua has them.
---@return minikvm.lcov
local function data_of(self)
  update(states[self])
  return by_line(states[self])
end

---A tracefile of lcov: lines, functions and, if asked for, branches of the source files. Empty
---without DWARF's line tables (gcc -g).
---@param test? string  the test's name
---@return string
function Coverage:lcov(test)
  check(self, "coverage:lcov")
  if test ~= nil then options.argument("coverage:lcov", "test", test, "text") end
  return lcov.format(data_of(self), test)
end

---The same in a file.
---@param path string
---@param test? string
---@return true? done  nil, "path: why"
---@return string? why
function Coverage:save(path, test)
  check(self, "coverage:save")
  options.argument("coverage:save", "path", path, "text")
  return lcov.write(data_of(self), path, test)
end

---Pages for a browser in a folder, by genhtml (Debian: lcov); the tracefile is beside them.
---@param folder string
---@return true? done  nil, "what: why"
---@return string? why
function Coverage:pages(folder)
  check(self, "coverage:pages")
  options.argument("coverage:pages", "folder", folder, "text")
  if package.loaded["minikvm.cli.safe"] then
    return nil, folder .. ": files cannot be opened with --safe"
  end
  return lcov.save_pages(data_of(self), folder)
end

---"lines 90.0% (9 of 10), functions …, branches …".
---@return string
function Coverage:text()
  check(self, "coverage:text")
  return lcov.text(data_of(self))
end

-- ---- making one ----

local function make(machine, o)
  local coverage = setmetatable({}, meta)
  states[coverage] = new_state(machine, o)
  return coverage
end

local COVERAGE <const> = options.declare("vm:coverage", {
  branches = "boolean", labels = "boolean", map = "boolean",
})

---Begins to record which blocks of the VM's code are executed: of its ELF images and of files given
---to vm:load_symbols. Forks, and VMs of its snapshots, are covered with it.
---  branches  true: which way conditional branches go, too
---  labels    true: all labels in executable sections are code (assembly without line tables)
---  map       true: the guest keeps the record: -fsanitize-coverage=trace-pc
---@param opts? { branches: boolean?, labels: boolean?, map: boolean? }
---@return minikvm.coverage? coverage  or nil, "what: why", "ENAME"
---@return string? why
---@return string? code
function vm:coverage(opts)
  options.self("vm:coverage", self, "minikvm.vm")
  core.check_open(self)
  local o = options.check("vm:coverage", opts, COVERAGE)
  if o.map and o.branches then
    core.blame "vm:coverage: with 'map' there is no record of 'branches'"
  end
  return make(self, o):attach(self)
end

---Takes the breakpoints out of one VM.
local function detach(coverage, machine)
  local state = states[coverage]
  update(state)
  for _, part in ipairs(state.parts) do
    if part.object and part.machine[1] == machine then core.coverage_stop(part.object) end
  end
  of_vm[machine][coverage] = nil
end

---Covers a VM as `minikvm test --coverage` does: with what already covers the same code in others.
---@param machine minikvm.vm
---@param known table<string, minikvm.coverage>  by key of the code
---@param o table
function M.share(machine, known, o)
  local code = code_of.of(machine, o)
  local old = shared[machine]
  if not code or old and states[old].code.key == code.key then return end
  if old then detach(old, machine) end
  known[code.key] = known[code.key] or make(machine, o)
  shared[machine] = known[code.key]
  return known[code.key]:attach(machine)
end

-- ---- along with snapshots ----

---A snapshot was taken of `from`, or a VM made of it.
function M.inherit(from, to)
  local is_vm = core.kind(to) == "minikvm.vm"
  for coverage in pairs(of_vm[from] or {}) do
    if is_vm then
      coverage:attach(to)
    else
      of_vm[to] = of_vm[to] or {}
      of_vm[to][coverage] = true
    end
  end
end

---A VM goes back to a snapshot, and with it a map in its memory.
function M.before_restore(machine)
  for coverage in pairs(of_vm[machine] or {}) do
    if states[coverage].map then update(states[coverage]) end
  end
end

return M
