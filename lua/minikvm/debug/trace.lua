-- debug/trace.lua - vm:trace: what a VM does, as lines for a function or on stderr, or in a file.
--
-- The core calls one function for a VM's events (src/vm/trace.h), on the thread of the vCPU, under
-- the Lua lock: dispatch() hands them to the VM's traces. A file is written without waiting for
-- anybody (spool.lua) and to its limit: a guest decides how much there is to tell.

local calls = require "minikvm.debug.calls"
local class = require "minikvm.class"
local core = require "minikvm.core"
local formats = require "minikvm.debug.trace_formats"
local options = require "minikvm.options"
local spool = require "minikvm.spool"
local strict = require "minikvm.strict"
local where = require "minikvm.debug.where"

local M = {}

local LIMIT <const> = 64 << 20 -- bytes of a file, unless told otherwise
local SYMBOLS_KEPT <const> = 4096 -- addresses whose symbols are remembered

---By the number in enum mk_trace_kind.
local KINDS <const> = { [0] = "in", "out", "read", "write", "rdmsr", "wrmsr", "hlt", "cr8",
                        "interrupt", "served", "end", "step" }
local EXITS <const> = { ["in"] = true, out = true, read = true, write = true, rdmsr = true,
                        wrmsr = true, hlt = true, cr8 = true }

---@class minikvm.trace.event
---@field cpu integer
---@field kind string  of KINDS, or "call", "return", "instruction"
---@field exit boolean?  it is an exit
---@field ns integer  of the clock of core.now()
---@field exits integer  of the vCPU so far
---@field rip integer
---@field linear integer  CS:RIP
---@field address integer
---@field size integer
---@field value integer
---@field text string  "", or what else there is to say
---@field symbol string?  where CS:RIP is: "main+0x10 (kernel.c:12)"
---@field depth integer?  of calls
---@field name string?  of the function that is called

---@class minikvm.trace
local Trace, meta = class "minikvm.trace"

---By VM: its traces, in the order in which they were made.
local traces = setmetatable({}, { __mode = "k" })
---What is behind a trace: { vm =, want =, format =, write =, spool =, left =, began =, name = }.
local inner = setmetatable({}, { __mode = "k" })

-- ---- events ----

local function symbol_of(own, linear)
  local known = own.symbols[linear]
  if known == nil then
    known = where.text(own.vm, linear, true) or false
    if own.symbol_count == SYMBOLS_KEPT then own.symbols, own.symbol_count = {}, 0 end
    own.symbols[linear], own.symbol_count = known, own.symbol_count + 1
  end
  return known or nil
end

---Ends a trace whose file can take no more.
local function end_early(trace, own)
  if trace.full then
    local text = ("the limit of %d bytes is reached: nothing that follows is in this trace")
      :format(own.limit)
    local last = own.format{ cpu = 0, kind = "limit", ns = own.last, exits = 0, rip = 0,
                             linear = 0, text = text }
    own.spool:put(last)
  end
  trace:remove()
end

local function put(trace, own, text)
  own.left = own.left - #text
  trace.full = own.left < 0
  if not trace.full then own.spool:put(text) end
  local _, lost, why = own.spool:counts()
  trace.lost, trace.error = lost, why or false
  if trace.full or why then end_early(trace, own) end
end

---Writes an event of one trace, or calls its function.
local function write(trace, own, e)
  own.last = e.ns
  local text = own.format(e)
  if text and own.spool then put(trace, own, text) elseif text then own.write(text) end
end

local function count_and_write(trace, own, e)
  trace.hits = trace.hits + 1
  e.symbol = symbol_of(own, e.linear)
  write(trace, own, e)
end

---A function's name at an address that is called.
local function name_of(own, linear)
  local name, offset = own.vm:symbol_at(linear)
  if name and offset == 0 then return name end
  return symbol_of(own, linear) or ("0x%x"):format(linear)
end

---What an instruction that is about to be executed, or an interrupt, means for calls.
local function follow(trace, own, e)
  local of = own.calls[e.cpu]
  if not of then
    of = calls.new(function(linear) return name_of(own, linear) end)
    own.calls[e.cpu] = of
  end
  for _, event in ipairs(of(e) or {}) do
    if not own.over then count_and_write(trace, own, event) end
  end
end

---`text` has its bytes, `value` the bits of its code segment.
local function instruction(e)
  local insn = core.disassemble(e.text, e.value, e.linear)[1]
  return { cpu = e.cpu, kind = "instruction", ns = e.ns, exits = e.exits, rip = e.rip,
           linear = e.linear, text = insn and insn.text or "?" }
end

---Hands an event to one trace.
local function tell(trace, e)
  local own = inner[trace]
  local want = own.want
  if own.over then return end
  if want.calls and (e.kind == "step" or e.kind == "interrupt") then follow(trace, own, e) end
  if own.over then return end
  if e.kind == "step" then
    if want.instructions then count_and_write(trace, own, instruction(e)) end
  elseif want[e.kind] == "count" then
    count_and_write(trace, own, e)
  elseif want[e.kind] then
    write(trace, own, e)
  end
end

---Hands an event to the VM's traces, which may be removed meanwhile.
---@param e minikvm.trace.event
function M.tell(vm, e)
  for _, trace in ipairs{ table.unpack(traces[vm] or {}) } do tell(trace, e) end
end

---Makes the core tell what the VM's traces want to know; nil, why, code when it cannot.
local function connect(vm)
  local list, times, steps = traces[vm] or {}, false, false
  for _, trace in ipairs(list) do
    local want = inner[trace].want
    times = times or want.served
    steps = steps or want.calls or want.instructions
  end
  if vm.state == "closed" then return true end
  local function dispatch(cpu, kind, ns, exits, rip, linear, address, size, value, text)
    kind = KINDS[kind]
    M.tell(vm, { cpu = cpu, kind = kind, exit = EXITS[kind], ns = ns, exits = exits, rip = rip,
                 linear = linear, address = address, size = size, value = value, text = text })
  end
  return core.trace(vm, list[1] and dispatch or nil, times, steps)
end

-- ---- making and removing one ----

local FORMATS <const> = { "text", "jsonl", "perfetto" }

local function limit_rule(value)
  if value == false then return false end
  return options.size(value)
end

local OPTIONS <const> = options.declare("vm:trace", {
  exits = "boolean", interrupts = "boolean", calls = "boolean", instructions = "boolean",
  file = "text", fn = "function", format = FORMATS, limit = limit_rule,
})

---The format of a file by its name.
local function format_of(o)
  if o.format then return o.format end
  local ending = o.file:match "%.(%w+)$"
  return ending == "json" and "perfetto" or ending == "jsonl" and "jsonl" or "text"
end

local function check(opts)
  local o = options.check("vm:trace", opts, OPTIONS)
  if o.file and o.fn then core.blame "vm:trace: options 'file' and 'fn': one of them" end
  for _, key in ipairs{ "format", "limit" } do
    if o[key] ~= nil and not o.file then
      core.blame(("vm:trace: option '%s' is for a 'file'"):format(key))
    end
  end
  if not (o.interrupts or o.calls or o.instructions) and o.exits == nil then o.exits = true end
  return o
end

---The kinds of events that are wanted; "count": they are events of the guest's.
local function wants(o, times)
  local want = { ["end"] = o.file and "count" or nil, served = times or nil, calls = o.calls,
                 instructions = o.instructions }
  for kind in pairs(o.exits and EXITS or {}) do want[kind] = "count" end
  if o.interrupts then want.interrupt = "count" end
  return want
end

local function to_stderr(line) io.stderr:write(line, "\n") end

---Opens what events are written to; nil, why, code.
local function open_output(own, o)
  local format = formats[o.file and format_of(o) or "line"]
  if o.file then
    local why, code
    own.limit = o.limit or o.limit == nil and LIMIT or math.maxinteger
    own.left = own.limit
    own.spool, why, code = spool.open(o.file, format.head and format.head(own) or "",
                                           format.tail or "")
    if not own.spool then return nil, why, code end
  else
    own.write = o.fn or to_stderr
  end
  own.want = wants(o, format.times)
  own.format = format.make(own)
  return own
end

---Begins to trace a VM.
---@param vm minikvm.vm
---@param opts? table
---@return minikvm.trace? trace
---@return string? why
---@return string? code
function M.add(vm, opts)
  local o = check(opts)
  local own = { vm = vm, name = vm.name, began = core.now() * 1e9 // 1 | 0,
                symbols = {}, symbol_count = 0, calls = {} }
  own.last = own.began
  local done, why, code = open_output(own, o)
  if not done then return nil, why, code end
  where.prepare(vm) -- they are read now, not in the middle of the run
  local trace = setmetatable({ hits = 0, lost = 0, full = false, error = false }, meta)
  inner[trace] = own
  traces[vm] = traces[vm] or {}
  table.insert(traces[vm], trace)
  done, why, code = connect(vm)
  if done then return trace end
  trace:remove()
  return nil, why, code
end

---Ends the trace; its file is complete then.
function Trace:remove()
  options.self("trace:remove", self, "minikvm.trace")
  local own = inner[self]
  if own.over then return end
  own.over = true
  local list = traces[own.vm] or {}
  for i, trace in ipairs(list) do
    if trace == self then table.remove(list, i) end
  end
  connect(own.vm)
  if not own.spool then return end
  own.spool:close()
  local _, lost, why = own.spool:counts()
  self.lost, self.error = lost, why or false
end

meta.__close = Trace.remove

---The function that vm:trace(fn) was called with, as a trace: one at a time.
local functions = setmetatable({}, { __mode = "k" })

---vm:trace(fn), vm:trace(nil): as before there were other kinds of traces.
---@param fn fun(line: string)?
---@return minikvm.trace?
function M.set_function(vm, fn)
  if functions[vm] then functions[vm]:remove() end
  functions[vm] = fn and M.add(vm, { fn = fn }) or nil
  return functions[vm]
end

---A run has ended: what was told so far is in the files. An error of a handler is not told by the
---core, whose events go to handlers.
function M.run_ended(vm, reason, info)
  for _, trace in ipairs{ table.unpack(traces[vm] or {}) } do
    local own = inner[trace]
    if reason == "error" and own.spool and type(info) == "table" then
      tell(trace, { cpu = 0, kind = "end", ns = own.last, exits = info.exits or 0,
                    rip = info.rip or 0, linear = info.rip or 0, text = "error" })
    end
    if own.spool then own.spool:flush() end
  end
end

strict.seal(Trace, meta, "trace", { "hits", "lost", "full", "error" })

return M
