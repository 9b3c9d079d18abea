-- cli/commands_run.lua - commands at the prompt that run the guest, and what stops it: continue,
-- step, next, until, break, watch, trace.

local core = require "minikvm.core"
local look = require "minikvm.cli.commands_look"

local fail, the_cpu, whereabouts = look.fail, look.cpu, look.whereabouts
local address_of, place_in = look.address_of, look.place_in

local M = {}

local breakpoints = {} -- by number, { handle =, text =, vm = }
local count = 0 -- of those that were ever made

---Which breakpoint it was that stopped the VM, by its number.
local function number_of(handle)
  for number, b in pairs(breakpoints) do
    if rawequal(b.handle, handle) then return number end
  end
end

---Why the VM has stopped: "breakpoint 1", "watch 2 at 0x1000".
local function stop_text(stop)
  local number = stop.handle and number_of(stop.handle)
  local what = stop.kind == "watch" and "watch" or "breakpoint"
  if stop.kind == "step" or stop.kind == "until" then return "" end
  local text = number and ("%s %d"):format(what, number) or what
  return stop.kind == "watch" and ("%s: 0x%x"):format(text, stop.address) or text
end

local shown ---@type string?  the stop that was shown last

---What tells one stop from another.
local function key_of(stop)
  local hits = stop.handle and pcall(function() return stop.handle.hits end) and stop.handle.hits
  return ("%s %x %d %s"):format(stop.kind, stop.address, stop.cpu.index, hits)
end

---What a run came to.
local function outcome(vm, reason, info)
  if not reason then return tostring(info) end
  local head = reason == "break" and (info.stop and stop_text(info.stop) or "")
    or info.text and info.text ~= "" and ("%s: %s"):format(reason, info.text) or reason
  if info.report then return head .. "\n" .. info.report end
  if info.stop then
    look.choose(info.stop.cpu.index)
    shown = key_of(info.stop)
  end
  local ok, at = pcall(whereabouts, vm, the_cpu(vm))
  if not ok then return head end
  return head ~= "" and head .. "\n" .. at or at
end

-- ---- running ----

---A number of times: the first word of the rest; `default` without one.
local function count_in(rest, default)
  if rest == "" then return default end
  local number = math.tointeger(tonumber(rest))
  if not number or number < 1 then fail("expected a number of times, got %q", rest) end
  return number
end

---Waits for a started VM until it stops or has ended.
local function wait(vm)
  local stop = vm:wait_break()
  if stop then return outcome(vm, "break", { stop = stop.kind and stop }) end
  return outcome(vm, vm:wait())
end

---Runs the VM, or lets it go on. Ctrl-C holds it where it is.
local function run(vm, how)
  local ok, text = pcall(function()
    local started = vm.state == "paused" or vm.state == "running"
    if vm.state == "paused" then vm:resume() end
    if started then return wait(vm) end
    return outcome(vm, vm:run(how))
  end)
  if ok then return text end
  if not tostring(text):find("interrupted!", 1, true) then error(text, 0) end
  if vm.state == "running" then vm:pause() end
  return "interrupted\n" .. whereabouts(vm, the_cpu(vm))
end

function M.continue(vm) return run(vm) end

function M.step(vm, rest)
  return outcome(vm, the_cpu(vm):step(count_in(rest, 1)))
end

function M.next(vm, rest)
  local reason, info
  for _ = 1, count_in(rest, 1) do
    reason, info = the_cpu(vm):step_over()
    local kind = reason == "break" and info.stop and info.stop.kind
    if kind ~= "step" and kind ~= "until" then break end
  end
  return outcome(vm, reason, info)
end

function M.run_until(vm, rest)
  if rest == "" then fail "until what? until WHERE" end
  local address = address_of(vm, rest)
  if vm.state ~= "paused" then return run(vm, { until_pc = address }) end
  local there <close> = vm:break_at(address, { once = true })
  return there and run(vm)
end

-- ---- breakpoints ----

local function list_breakpoints()
  local lines = {}
  for number = 1, count do
    local b = breakpoints[number]
    if b and b.vm.state == "closed" then
      breakpoints[number] = nil
    elseif b then
      lines[#lines + 1] = ("%-3d %s, hit %d times"):format(number, b.text, b.handle.hits)
    end
  end
  return #lines > 0 and table.concat(lines, "\n") or "no breakpoints"
end

local function remember(vm, handle, text, why)
  if not handle then fail("%s", why) end
  count = count + 1
  breakpoints[count] = { handle = handle, text = text, vm = vm }
  return ("%d   %s"):format(count, text)
end

function M.add_break(vm, rest)
  if rest == "" then return list_breakpoints() end
  local place, condition = rest:match "^(.-)%s+if%s+(.+)$"
  local fn
  if condition then
    local chunk, why = load("local cpu = ... return " .. condition, "=condition")
    if not chunk then fail("%s", why) end
    fn = function(cpu) return chunk(cpu) and true or false end
  end
  place = place or rest
  local handle, why = vm:break_at(place_in(place), fn)
  local address = vm:address_of(place_in(place))
  return remember(vm, handle, ("break %s (0x%x)"):format(rest, address or 0), why)
end

function M.add_watch(vm, rest)
  local place, size, how = rest:match "^(.-)%s+(%d+)%s*([rwx]*)$"
  if not place then place, how = rest:match "^(.-)%s+([rwx])$" end
  place = place or rest
  if place == "" then return list_breakpoints() end
  how = how ~= "" and how or "w"
  local address = address_of(vm, place)
  local handle, why = vm:watch(address, size or 4, how)
  return remember(vm, handle, ("watch 0x%x, %s bytes, %s"):format(address, size or 4, how), why)
end

function M.delete(_, rest)
  local numbers = {}
  for word in rest:gmatch "%S+" do
    numbers[#numbers + 1] = math.tointeger(tonumber(word))
    if not breakpoints[numbers[#numbers]] then fail("there is no breakpoint %s", word) end
  end
  if rest == "" then
    for number in pairs(breakpoints) do numbers[#numbers + 1] = number end
  end
  for _, number in ipairs(numbers) do
    local b = breakpoints[number]
    if b and b.vm.state ~= "closed" then b.handle:remove() end
    breakpoints[number] = nil
  end
end

-- ---- traces ----

local current ---@type minikvm.trace?  that of the command `trace`

---"trace FILE", with more than exits and interrupts where that is said; "trace off".
function M.trace(vm, rest)
  if current then current:remove() end
  current = nil
  local file, more = rest:match "^(%S*)%s*(.*)$"
  if file == "" or file == "off" then return nil end
  local o = { file = file, exits = true, interrupts = true }
  for word in more:gmatch "%S+" do
    if word ~= "calls" and word ~= "instructions" then
      fail("trace %s and calls or instructions, not %s", file, word)
    end
    o[word] = true
  end
  local why
  current, why = vm:trace(o)
  if not current then fail("%s", why) end
end

---That a VM which runs beside the prompt has stopped, said once; nil when there is no such news.
---@return string?
function M.news()
  local vm = rawget(_G, "vm")
  if core.kind(vm) ~= "minikvm.vm" or vm.state ~= "paused" then return nil end
  local stop = vm:wait_break(0)
  if not stop or not stop.kind or key_of(stop) == shown then return nil end
  return outcome(vm, "break", { stop = stop })
end

return M
