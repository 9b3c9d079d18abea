-- debug/trace_formats.lua - what a trace looks like: text, JSON lines, and trace events as Perfetto
-- and chrome://tracing open them ("Trace Event Format", Google, sections "JSON Object Format" and
-- "Event Descriptions").
--
-- A format is a table: head and tail of a file, and make(trace), which returns function(event) ->
-- text or nil. An event is a table as of trace.lua.

local core = require "minikvm.core"
local json = require "minikvm.json"

local M = {}

local DEEPEST <const> = 40 -- levels that are shown as an indentation

-- ---- words for an event ----

local ACCESS <const> = {
  ["in"] = "in   port=0x%03x size=%d value=0x%x", out = "out  port=0x%03x size=%d value=0x%x",
  read = "mmio read 0x%x size=%d value=0x%x", write = "mmio write 0x%x size=%d value=0x%x",
  rdmsr = "rdmsr 0x%x", wrmsr = "wrmsr 0x%x",
}

---What happened, in the words of the text format.
local function words(e)
  local kind = e.kind
  if kind == "rdmsr" or kind == "wrmsr" then
    return (ACCESS[kind] .. " value=0x%x"):format(e.address, e.value)
  elseif ACCESS[kind] then
    return ACCESS[kind]:format(e.address, e.size, e.value)
  elseif kind == "cr8" then
    return ("cr8 lowered to %d"):format(e.value)
  elseif kind == "interrupt" then
    return ("interrupt 0x%02x"):format(e.value)
  elseif kind == "end" then
    return "end " .. e.text
  elseif kind == "call" then
    return ("%scall %s"):format(("  "):rep(math.min(e.depth, DEEPEST)), e.name)
  elseif kind == "return" then
    return ("%sreturn"):format(("  "):rep(math.min(e.depth, DEEPEST)))
  end
  return e.text ~= "" and e.text or kind
end

local function line_of(e)
  local text = ("cpu%d %8d rip=%08x %s"):format(e.cpu, e.exits, e.rip, words(e))
  return e.symbol and ("%s  %s"):format(text, e.symbol) or text
end

-- ---- text ----

---A line without its time and newline, for functions.
M.line = { make = function() return line_of end }

M.text = {
  make = function(trace)
    return function(e)
      return ("%12.6f %s\n"):format((e.ns - trace.began) / 1e9, line_of(e))
    end
  end,
}

-- ---- JSON ----

local quoted <const> = json.quoted

local function hex(value) return ("\"0x%x\""):format(value) end

---The fields that an event of this kind has besides its time and place.
local function fields(e)
  local list, kind = {}, e.kind
  if ACCESS[kind] then
    local what = (kind == "in" or kind == "out") and "port"
      or (kind == "rdmsr" or kind == "wrmsr") and "msr" or "address"
    list[1] = ('"%s":%s,"size":%d,"value":%s'):format(what, hex(e.address), e.size, hex(e.value))
  elseif kind == "cr8" or kind == "interrupt" then
    list[1] = ('"%s":%d'):format(kind == "cr8" and "value" or "vector", e.value)
  elseif e.text ~= "" then
    list[1] = ('"text":%s'):format(quoted(e.text))
  end
  if e.name then list[#list + 1] = '"function":' .. quoted(e.name) end
  if e.depth then list[#list + 1] = ('"depth":%d'):format(e.depth) end
  if e.symbol then list[#list + 1] = '"symbol":' .. quoted(e.symbol) end
  return table.concat(list, ",")
end

M.jsonl = {
  make = function(trace)
    return function(e)
      local more = fields(e)
      return ('{"time":%.9f,"cpu":%d,"exit":%d,"rip":%s,"what":"%s"%s%s}\n'):format(
        (e.ns - trace.began) / 1e9, e.cpu, e.exits, hex(e.rip), e.kind, more ~= "" and "," or "",
        more)
    end
  end,
}

-- ---- trace events ----

local NAMES <const> = { ["in"] = "in 0x%x", out = "out 0x%x", read = "read 0x%x",
                        write = "write 0x%x", rdmsr = "rdmsr 0x%x", wrmsr = "wrmsr 0x%x" }

local READS <const> = { ["in"] = true, read = true, rdmsr = true }

local function micro(ns) return ("%d.%03d"):format(ns // 1000, ns % 1000) end

local function event_name(e)
  if NAMES[e.kind] then return NAMES[e.kind]:format(e.address) end
  return e.name or words(e)
end

---One event; `phase` as in the format: "X" with a duration, "B" and "E", "i".
local function event(e, phase, category, ns, more)
  local args = fields(e)
  return (',\n{"name":%s,"cat":"%s","ph":"%s","ts":%s,"pid":1,"tid":%d%s,"args":{"rip":%s%s%s}}')
    :format(quoted(event_name(e)), category, phase, micro(ns), e.cpu, more or "", hex(e.rip),
            args ~= "" and "," or "", args)
end

local function metadata(what, tid, name)
  return ('{"name":"%s","ph":"M","pid":1,"tid":%d,"args":{"name":%s}}'):format(what, tid,
                                                                              quoted(name))
end

---The exit that is being served on each vCPU is written when that is done. Its time is that of what
---serves it, without that of telling: a read is told when it was served, anything else before.
local function make_events()
  local open, named = {}, {}
  local function finish(cpu, now)
    local e = open[cpu]
    open[cpu] = nil
    if not e then return "" end
    local took = e.began and e.ns - e.began or now - e.told
    return event(e, "X", "exit", e.began or e.ns, (',"dur":%s'):format(micro(math.max(0, took))))
  end
  local function served(e)
    local exit = open[e.cpu]
    if exit and READS[exit.kind] then exit.began = e.value end
    return finish(e.cpu, e.ns)
  end
  local PHASE <const> = { call = "B", ["return"] = "E" }
  local function other(e)
    local phase = PHASE[e.kind] or "i"
    return event(e, phase, PHASE[e.kind] and "call" or e.kind, e.ns,
                 phase == "i" and ',"s":"t"' or "")
  end
  local function exit(e)
    local before = finish(e.cpu, e.ns)
    open[e.cpu], e.told = e, core.now() * 1e9 // 1 | 0
    return before
  end
  return function(e)
    local text = ""
    if not named[e.cpu] then
      named[e.cpu] = true
      text = ",\n" .. metadata("thread_name", e.cpu, "vCPU " .. e.cpu)
    end
    if e.kind == "served" then
      text = text .. served(e)
    elseif e.exit then
      text = text .. exit(e)
    else
      text = text .. (e.kind == "end" and finish(e.cpu, e.ns) or "") .. other(e)
    end
    return text ~= "" and text or nil
  end
end

M.perfetto = {
  times = true,
  tail = "\n]}\n",
  head = function(trace)
    return '{"displayTimeUnit":"ns","traceEvents":[\n' .. metadata("process_name", 0, trace.name)
  end,
  make = make_events,
}

return M
