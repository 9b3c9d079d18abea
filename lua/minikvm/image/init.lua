-- image/init.lua - vm:load and what a reset needs of it, on top of the core's functions
-- (src/lua/load.c): where the bytes come from, which mode they are for, and that they get into RAM.
--
-- What goes where is planned first (image/plan.lua and the formats); an image that is refused
-- leaves its VM as it was. Images of up to a MiB are kept in memory for a reset. Larger ones are
-- read straight into RAM, and once more for a reset, from a file that stays open.

local core = require "minikvm.core"
local options = require "minikvm.options"
local planner = require "minikvm.image.plan"
local source_of = require "minikvm.image.source"

local refuse, check = planner.refuse, source_of.check

local M = {}

local MOST_CPUS <const> = 64 -- that a VM can have
local LOAD_BASE <const> = 0x1000
local GZIP <const> = "\x1f\x8b\x08" -- RFC 1952: what a file begins with, and the method, deflate

---By VM, the images in the order in which they were loaded; by snapshot, those of its VM.
---@type table<minikvm.vm, { source: table, plan: minikvm.image.plan }[]>
local loaded = setmetatable({}, { __mode = "k" })

---The same for files with symbols alone, from vm:load_symbols.
local symbol_files = setmetatable({}, { __mode = "k" })

---A kernel that is packed as a whole, unless its bytes are wanted as they are.
local function unpack(s, o)
  if s.head:sub(1, 3) ~= GZIP or o.format or o.at or o.segment then return end
  local bytes = require("minikvm.image.gzip").unpack(s)
  s:close()
  s.path = nil
  s.bytes, s.size, s.head = bytes, #bytes, bytes:sub(1, planner.HEAD)
end

local function close_all(sources)
  for _, s in ipairs(sources) do s:close() end
end

---The image and its modules, opened, into `sources`.
local function open_all(vm, o, sources)
  sources[1] = source_of.new(vm, o)
  source_of.read_start(sources[1])
  unpack(sources[1], o)
  for i, m in ipairs(o.modules or {}) do
    local s = source_of.new(vm, m)
    sources[i + 1], s.given_text, s.text = s, s.text, s.text or s.name
    source_of.read_start(s)
  end
  if sources[2] then sources[1].modules = table.move(sources, 2, #sources, 1, {}) end
  sources[1].initrd = o.initrd ~= nil
  return sources[1]
end

-- ---- what the VM wants of it ----

---A vCPU's window in real mode: where its image goes unless another place is asked for.
local function want_real(want, layout, o)
  local window = (o.cpu or 0) * layout.window
  want.bits = 16
  want.at = o.at or window
  if not o.at then want.limit = math.min(want.limit, window + layout.window) end
end

---What the VM wants of an image, in the mode that `layout` says.
---@return minikvm.image.want
function M.want(vm, layout, o)
  local made = require("minikvm.vm").made[vm]
  local want = { mode = layout.mode, limit = layout.memory, ranges = layout.ranges,
                 format = o.format, has_at = o.at ~= nil,
                 entry = o.entry, symbol = o.symbol, cmdline = o.cmdline or layout.cmdline,
                 linux = made and made.linux, framebuffer = o.framebuffer, cpus = layout.cpus }
  if want.linux then
    want.cmdline = require("minikvm.vm.linux").command_line(vm, want.cmdline)
    want.firmware = require("minikvm.vm.linux").tables(vm)
  end
  if layout.mode == "real" then
    want_real(want, layout, o)
  else
    want.at = o.at or LOAD_BASE
    require("minikvm.image.tables").want(want, layout, M.of(vm))
    require("minikvm.image.boot_info").want(want, vm)
  end
  return want
end

-- ---- into the VM ----

---Real mode: the segment that was asked for, or that the format says, or that of the place.
local function segment_of(source, plan, o)
  local segment = o.segment or plan.cs
  if not segment then
    segment = plan.at >> 4
    if plan.at & 15 ~= 0 or segment > 0xffff then
      refuse(source, "EINVAL", "at = 0x%x is no segment's start: give segment= and entry=", plan.at)
    end
  end
  if segment > 0xffff or math.ult(0xffff, plan.entry) then
    refuse(source, "EINVAL", "entry 0x%x:0x%x is not a real-mode address", segment, plan.entry)
  end
  return segment
end

local function set_entry(vm, layout, source, o, want, plan)
  local regs = plan.regs or {}
  local entry = { cpu = o.cpu, ip = plan.entry, handoff = plan.handoff,
                  regs = plan.regs ~= nil, eax = regs.eax,
                  ebx = regs.ebx, edx = regs.edx, esi = regs.esi }
  if layout.mode == "real" then
    entry.segment = segment_of(source, plan, o)
  else
    local places = require("minikvm.image.tables").places(layout, want.blocks)
    entry.low, entry.tables, entry.tables_end = places.low, places.tables, places.tables_end
  end
  check(source, core.set_entry(vm, entry))
end

---Puts everything into RAM as planned.
local function apply(vm, source, plan)
  for _, s in ipairs(plan.segments) do
    source:put(vm, s.at, s.offset, s.file_bytes)
    if s.mem_bytes > s.file_bytes then
      check(source, core.image_zero(vm, s.at + s.file_bytes, s.mem_bytes - s.file_bytes))
    end
  end
  local function put(p) check(source, core.image_put(vm, p.at, p.bytes, 0, #p.bytes)) end
  for _, m in ipairs(plan.modules or {}) do m.source:put(vm, m.at, 0, m.source.size) end
  if plan.info then put(plan.info) end
  if plan.firmware then put(plan.firmware) end
  for _, z in ipairs(plan.zeros or {}) do check(source, core.image_zero(vm, z.at, z.bytes)) end
  for _, p in ipairs(plan.patches or {}) do put(p) end
end

---The images that are in the VM, in order.
---@return { source: minikvm.image.source, plan: minikvm.image.plan }[]
function M.of(vm)
  return loaded[vm] or {}
end

---What symbols and source lines of a VM are taken from: its images, then files with symbols alone.
---@return { source: minikvm.image.source, plan: minikvm.image.plan }[]
function M.objects(vm)
  local files = symbol_files[vm]
  if not files then return M.of(vm) end
  local all = table.move(M.of(vm), 1, #M.of(vm), 1, {})
  return table.move(files, 1, #files, #all + 1, all)
end

---Adds a file with symbols; one of the same name is replaced.
---@param image { source: minikvm.image.source, plan: minikvm.image.plan }
function M.add_symbols(vm, image)
  local list = {}
  for _, one in ipairs(symbol_files[vm] or {}) do
    if one.source.name ~= image.source.name then list[#list + 1] = one end
  end
  list[#list + 1] = image
  symbol_files[vm] = list
end

---What `to` is made of, a snapshot or a VM, was loaded with the images of `from`.
---@param vm minikvm.vm?  `to`, when it is a VM
function M.inherit(from, to, vm)
  for _, lists in ipairs{ loaded, symbol_files } do
    local copied = lists[from] and {} or nil
    for i, image in ipairs(lists[from] or {}) do
      copied[i] = vm and source_of.inherited(image, vm) or image
    end
    lists[to] = copied
  end
end

---The images and the files with symbols, each as a list, to be replaced as a whole.
function M.set(vm, images, files)
  loaded[vm], symbol_files[vm] = images, files
end

---A VM without images that is restored to a snapshot knows the symbols of that one's; its reset
---does not load them.
function M.adopt(vm, images, files)
  if #M.of(vm) > 0 then return end
  local all = {}
  for _, list in ipairs{ images or {}, files or {} } do
    for _, image in ipairs(list) do all[#all + 1] = source_of.inherited(image, vm) end
  end
  symbol_files[vm] = all
end

---@return table? images
---@return table? files
function M.get(vm) return loaded[vm], symbol_files[vm] end

---In the mode that was chosen, or that the image is for.
local function settle_mode(vm, layout, source, o)
  if layout.mode_open
     and (layout.mode ~= "real" or o.format or planner.tells_mode(source)) then
    layout = require("minikvm.image.mode").settle(vm, layout, source, o)
  end
  if layout.mode ~= "real" and o.segment then
    refuse(source, "EINVAL", "segment= is for real mode")
  end
  return layout
end

---Puts an image into RAM; when that fails, nothing can run until another one is loaded.
local function apply_all(vm, source, plan)
  local ok, problem = pcall(apply, vm, source, plan)
  if ok then return end
  core.load_failed(vm, type(problem) == "table" and problem.text or tostring(problem), true)
  error(problem, 0)
end

---Whether nothing is left in RAM of an image behind another one.
local function covered(image, plan)
  if image.plan.info then return false end
  for _, s in ipairs(image.plan.segments) do
    local inside = false
    for _, over in ipairs(plan.segments) do
      inside = inside or planner.inside(s.at - over.at, s.mem_bytes, over.mem_bytes)
    end
    if not inside then return false end
  end
  return true
end

---Forgets images of a snapshot that the VM was restored to: from now on it has its own.
local function forget_adopted(vm)
  local files = {}
  for _, file in ipairs(symbol_files[vm] or {}) do
    if file.plan.format == "symbols" then files[#files + 1] = file end
  end
  symbol_files[vm] = files
end

---Adds an image to those of its VM, and forgets those that it lies over.
local function remember(vm, source, plan)
  local images = {}
  for _, image in ipairs(M.of(vm)) do
    if covered(image, plan) then image.source:close() else images[#images + 1] = image end
  end
  images[#images + 1] = { source = source, plan = plan }
  loaded[vm] = images
  forget_adopted(vm)
end

---Gives the VM the framebuffer of a plan, and points its vCPU at the first instruction; both or
---neither.
local function prepare(vm, layout, source, o, want, plan)
  local undo
  if plan.framebuffer then
    local done, why, code = require("minikvm.vm.framebuffer").map(vm, plan.framebuffer)
    if not done then refuse(source, code, "its framebuffer: %s", why) end
    undo = done
  end
  local ok, problem = pcall(set_entry, vm, layout, source, o, want, plan)
  if ok then return end
  if undo then undo() end
  error(problem, 0)
end

---For one vCPU. Those that begin in the same image, on stacks of their own, need it in RAM once.
local function load_for(vm, source, o, there)
  local layout = core.layout(vm, o.cpu or 0)
  local want = M.want(vm, layout, o)
  local plan = planner.make(source, want)
  plan.firmware = want.firmware
  prepare(vm, layout, source, o, want, plan)
  if there and (layout.mode ~= "real" or o.at) then return end
  apply_all(vm, source, plan)
  remember(vm, source, plan)
end

---Raises what vm:load returns.
local function load(vm, layout, o, sources)
  local source, all = open_all(vm, o, sources), o.cpu == "all"
  if all then o.cpu = 0 end
  if (o.cpu or 0) >= layout.cpus then
    refuse(source, "EINVAL", "cpu %d: vm %q has %d", o.cpu, layout.name, layout.cpus)
  end
  settle_mode(vm, layout, source, o)
  load_for(vm, source, o, false)
  for cpu = 1, all and layout.cpus - 1 or 0 do
    o.cpu = cpu
    load_for(vm, source, o, true)
  end
end

---nil, text, code of what was raised; what is no refusal is raised again.
local function failed(vm, problem)
  if type(problem) ~= "table" or not problem.text then error(problem, 0) end
  core.load_failed(vm, problem.text)
  return nil, problem.text, problem.code
end

local function entry(value)
  if math.type(value) == "integer" or type(value) == "string" then return value end
  return nil, ("expected an address or the name of a symbol, got %s"):format(tostring(value))
end

local number <const> = options.between(0, MOST_CPUS - 1,
                                       ("an integer of 0 to %d or \"all\""):format(MOST_CPUS - 1))
local function cpu(value)
  if value == "all" then return value end
  return number(value)
end

local LOAD <const> = options.declare("vm:load", {
  at = "address", entry = entry, segment = "address", cpu = cpu, cmdline = "text",
  modules = function(value) return require("minikvm.image.place").check_modules(value) end,
  initrd = function(value) return require("minikvm.image.place").check_module("initrd", value) end,
  format = { "auto", "flat", "boot", "elf", "multiboot", "multiboot2", "limine", "linux", "pvh" },
  framebuffer = function(value) return require("minikvm.vm.framebuffer").check(value) end,
})

local SOURCE <const> = options.declare("vm:load.source", { bytes = "string", name = "text" })

---vm:load: see lua/minikvm/vm/init.lua.
function M.load(vm, source, opts)
  options.self("vm:load", vm, "minikvm.vm")
  local o = options.check("vm:load", opts, LOAD)
  if type(o.entry) == "string" then o.symbol, o.entry = o.entry, nil end
  if o.format == "auto" then o.format = nil end
  if o.initrd and o.modules then core.blame "vm:load: give either 'initrd' or 'modules'" end
  if o.initrd then o.modules = { o.initrd } end
  if type(source) == "table" then
    local s = options.check("vm:load", source, SOURCE)
    if not s.bytes then core.blame("vm:load: the table has no 'bytes'") end
    o.bytes, o.name = s.bytes, s.name
  elseif type(source) == "string" then
    o.path = source
  else
    core.blame(("vm:load: expected a path or { bytes = ... }, got %s"):format(type(source)))
  end
  local layout, sources = core.layout(vm, math.tointeger(o.cpu) or 0), {}
  local ok, problem = pcall(load, vm, layout, o, sources)
  if ok then return vm end
  if sources[1] and sources[1].head and type(problem) == "table" and problem.text then
    problem.text = problem.text
      .. require("minikvm.image.mode").hint(vm, sources[1], layout, o, problem.text)
  end
  close_all(sources)
  return failed(vm, problem)
end

-- ---- after a reset ----

---Whether all images can be read again; nil, why, code when not.
function M.check_again(vm)
  for _, image in ipairs(M.of(vm)) do
    for _, s in ipairs{ image.source, table.unpack(image.source.modules or {}) } do
      if s:is_changed() then
        return nil, s.name .. ": the file was written to since it was loaded: load it again, into "
          .. "a new VM", "ESTALE"
      end
    end
  end
  return true
end

---Puts all images into RAM again, in their order.
---@return minikvm.vm? vm  or nil, "what: why", "ENAME"
function M.load_again(vm)
  for _, image in ipairs(M.of(vm)) do
    local ok, problem = pcall(apply_all, vm, image.source, image.plan)
    if not ok then return failed(vm, problem) end
  end
  return vm
end

return M
