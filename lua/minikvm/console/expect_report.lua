-- expect_report.lua - what a wait for a guest's output tells when it failed: why, what came
-- instead, what was typed, and where the guest is.

local core = require "minikvm.core"

local M = {}

local TAIL_LINES <const>, TAIL_BYTES <const> = 10, 1000
local PATTERNS <const>, PATTERN_BYTES <const> = 10, 80 -- shown of those that were waited for

---Text for people: on one line, printable.
local function show(text)
  return (text:gsub("[%c\\\x7f-\xff]", function(c)
    return c == "\n" and "\\n" or c == "\r" and "\\r" or c == "\t" and "\\t"
      or c == "\\" and "\\\\" or ("\\x%02x"):format(c:byte())
  end))
end

---The patterns that were waited for.
---@param list string[]
function M.quoted(list)
  local words = {}
  for i, pattern in ipairs(list) do
    if i > PATTERNS then
      words[i] = ("%d more"):format(#list - PATTERNS)
      break
    end
    local text = #pattern > PATTERN_BYTES and pattern:sub(1, PATTERN_BYTES) .. "..." or pattern
    words[i] = '"' .. show(text) .. '"'
  end
  return table.concat(words, " or ")
end

---The last lines of a text, indented.
function M.tail(text)
  local cut = #text > TAIL_BYTES
  local lines = {}
  for line in (text:sub(-TAIL_BYTES) .. "\n"):gmatch "(.-)\r?\n" do lines[#lines + 1] = line end
  if lines[#lines] == "" then lines[#lines] = nil end
  local first = math.max(1, #lines - TAIL_LINES + 1)
  local shown = {}
  for i = first, #lines do shown[#shown + 1] = "    | " .. show(lines[i]) end
  if cut or first > 1 then table.insert(shown, 1, "    | ...") end
  return #shown > 0 and table.concat(shown, "\n") or "    (nothing)"
end

---The rows of a screen that are not blank, with their numbers.
local function rows_of(text)
  local shown, y = {}, 0
  for row in (text .. "\n"):gmatch "(.-)\n" do
    if row ~= "" then shown[#shown + 1] = ("    %2d | %s"):format(y, show(row)) end
    y = y + 1
  end
  return #shown > 0 and table.concat(shown, "\n") or "    (nothing)"
end

local function input_line(con)
  local sent, waiting, ended = core.input_state(con)
  if sent == "" then return "  sent last: nothing" .. (ended and ", input has ended" or "") end
  return ('  sent last: "%s"%s%s'):format(show(sent),
    waiting > 0 and (", %d bytes are not read yet"):format(waiting) or ", all of it was read",
    ended and ", then input ended" or "")
end

---Reason and information of a run that is over.
function M.last_result(vm)
  if vm.state == "ended" then return core.wait(vm, 0) end
end

local function place(vm, rip)
  local text = package.loaded["minikvm.image"] and require("minikvm.debug.where").text(vm, rip)
  return ("rip 0x%x%s"):format(rip, text and (" in " .. text) or "")
end

---What a vCPU does, or why it has ended.
---@param vm minikvm.vm
---@param cpu integer
---@return string
function M.cpu_line(vm, cpu)
  if vm.state == "closed" then return "  the vm is closed" end
  local line = ("  cpu %d: "):format(cpu)
  if vm.state == "running" then
    local rip = core.where(vm, cpu)
    if vm.state == "running" then
      return line .. "running" .. (rip and " at " .. place(vm, rip) or ", busy with an exit")
    end
  end
  local _, info = M.last_result(vm)
  if not info then return line .. "did not run" end
  local own = info.cpu[cpu]
  return line .. ("%s at %s: %s"):format(own.reason, place(vm, own.rip), own.text)
end

---The whole message of a wait that failed.
function M.report(wait, why)
  local parts = { ("%s %s: %s"):format(wait.what, M.quoted(wait.patterns), why) }
  if wait.vm.state ~= "closed" then
    parts[#parts + 1] = wait.screen and "  on the screen:" or "  printed last:"
    parts[#parts + 1] = wait.screen and rows_of(wait.screen:text())
      or M.tail((wait.con:text(wait.cpu)))
    parts[#parts + 1] = input_line(wait.con)
  end
  parts[#parts + 1] = M.cpu_line(wait.vm, wait.cpu)
  return table.concat(parts, "\n")
end

local function budget_text(b)
  local parts = {}
  if b.exits then parts[#parts + 1] = b.exits .. " exits" end
  if b.ticks then parts[#parts + 1] = b.ticks .. " timer ticks" end
  return table.concat(parts, " or ")
end

---Why a wait failed, and the name of the error.
function M.failure(wait, state, reason, info)
  local forbidden, undecidable = core.forbidden(wait.watch)
  if forbidden then return forbidden, "ECANCELED" end
  if undecidable then
    return undecidable, "E2BIG"
  elseif state == "budget" then
    return ("not within the budget of %s"):format(budget_text(wait.budget)), "EDQUOT"
  elseif reason == nil or reason == "deadline" then
    return ("not within %g s"):format(wait.timeout), "ETIMEDOUT"
  end
  return ("the vm ended: %s, %s"):format(reason, info.text), "ESHUTDOWN"
end

return M
