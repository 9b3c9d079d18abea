-- vm/result.lua - the table that vm:run, vm:wait and vm:stop return beside the reason, and what a
-- breakpoint says of a stop: unknown fields are errors, print() shows the end in words.

local strict = require "minikvm.strict"

local M = {}

---Why the VM stopped, where and when; below, what is known of it.
local function result_text(info)
  local facts = {}
  if info.rip then
    facts[1] = ("rip 0x%x%s"):format(info.rip, info.place and " " .. tostring(info.place) or "")
  end
  if info.exits then
    facts[#facts + 1] = ("%d exit%s"):format(info.exits, info.exits == 1 and "" or "s")
  end
  if info.seconds then facts[#facts + 1] = ("%.6f s"):format(info.seconds) end
  local lines = { ("%s: %s%s"):format(info.reason, info.text or "", facts[1]
    and (" (%s)"):format(table.concat(facts, ", ")) or "") }
  for _, more in ipairs{ "stop", "waiting", "traceback", "report" } do
    if info[more] then lines[#lines + 1] = tostring(info[more]) end
  end
  return table.concat(lines, "\n")
end

local mark_result = strict.record("result", "a run's info", {
  "reason", "text", "code", "rip", "exits", "entries", "by", "served", "assists", "seconds",
  "traceback", "waiting", "bytes", "interrupts", "place", "report", "stop", "cpu" }, result_text)

local mark_stop = strict.record("stop", "a stop", { "kind", "address", "cpu", "handle" },
  function(stop)
    if not stop.kind then return "paused" end
    return ("%s at 0x%x, vCPU %d"):format(stop.kind, stop.address, stop.cpu.index)
  end)

---info.cpu: from 0, as vm.cpu is.
local PER_CPU <const> = { __metatable = false, __len = function(list)
  return rawget(list, 0) and rawlen(list) + 1 or 0
end }

---@param stop table?  as from the core
---@return minikvm.stop?
function M.stop(stop) return stop and mark_stop(stop) end

---@param info table  as from the core
---@return minikvm.result
function M.of(info)
  if info.stop then mark_stop(info.stop) end
  if info.cpu then
    for i = 0, rawlen(info.cpu) do mark_result(info.cpu[i]) end
    setmetatable(info.cpu, PER_CPU)
  end
  return mark_result(info)
end

return M
