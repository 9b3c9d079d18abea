-- cli/commands.lua - short commands at the prompt, beside Lua: step, next, break, x …
--
-- A line is a command when its first word is one, no global of the user's has that name, and what
-- follows does not make it Lua: "x 0x1000" is a command, "x = 1", "x(1)" and "x.y" are not. They
-- work on the VM in the global vm. Each is a function of the VM and the rest of the line that
-- returns a text, or nothing; what is wrong is raised.

local core = require "minikvm.core"
local registers = require "minikvm.vm.registers"

local M = {}

local cpu_number = 0 -- the vCPU that commands are about
local breakpoints = {} -- by number, { handle =, text = }
local count = 0 -- of those that were ever made

local function fail(text, ...) error(text:format(...), 0) end

---The VM in the global vm.
local function the_vm()
  local vm = rawget(_G, "vm")
  if core.kind(vm) ~= "minikvm.vm" then
    fail "there is no VM: commands are about the one in the global vm, vm = kvm.vm{ … }"
  end
  if vm.state == "closed" then fail("vm %q is closed", vm.name) end
  return vm
end

local function the_cpu(vm)
  local ok, cpu = pcall(function() return vm.cpu[cpu_number] end)
  if not ok or not cpu then cpu_number = 0 end
  return vm.cpu[cpu_number]
end

-- ---- values and places in a command ----

local function linear_ip(cpu)
  local cs = cpu:sregs().cs
  return cs.base + cpu.rip & (cs.l == 1 and -1 or 0xffffffff)
end

---The value of a variable of the function that the vCPU is in, or its address; nil.
local function local_variable(cpu, name)
  local ok, variable = pcall(function() return cpu:locals()[name] end)
  if not ok or not variable then return nil end
  return math.type(variable.value) == "integer" and variable.value or variable.address
end

---Names in an expression: registers, variables, symbols of the guest, globals.
local function environment(vm, cpu)
  return setmetatable({}, { __index = function(_, name)
    if registers[name] then return cpu[name] end
    local address = local_variable(cpu, name) or vm.symbols[name]
    if address == nil then address = rawget(_G, name) end
    return address
  end })
end

---The integer that an expression stands for, or a place: "0x1000", "rsp + 8", "main", "main+4",
---"kernel.c:12".
local function address_of(vm, text)
  local cpu = the_cpu(vm)
  local chunk = load("return " .. text, "=command", "t", environment(vm, cpu))
  local ok, value = pcall(chunk or error)
  if ok and type(value) == "number" and math.tointeger(value) then return math.tointeger(value) end
  local address, why = vm:address_of(text)
  if not address then fail("%s", why) end
  return address
end

---What break_at is given: an address when it is one to Lua, else the words.
local function place_in(text)
  return math.tointeger(tonumber(text)) or text
end

---A number of times: the first word of the rest; `default` without one.
local function count_in(rest, default)
  if rest == "" then return default end
  local number = math.tointeger(tonumber(rest))
  if not number or number < 1 then fail("expected a number of times, got %q", rest) end
  return number
end

-- ---- what is shown ----

local SOURCE_MAX <const> = 1 << 20 -- of a source file that is looked into

---Opens a source file: where the compiler found it, or beside one of the VM's images, or above.
local function open_source(vm, place)
  local file = place.path and io.open(place.path, "r")
  if file or not place.file or place.file:find "^/" then return file end
  for _, image in ipairs(require("minikvm.image").of(vm)) do
    local folder = tostring(image.source.path or ""):match "^(.*)/"
    while folder do
      file = io.open(folder .. "/" .. place.file, "r")
      if file then return file end
      folder = folder:match "^(.*)/"
    end
  end
end

---The line of a source file; nil when it cannot be read.
local function source_line(vm, place)
  local file = place.line and open_source(vm, place)
  if not file then return nil end
  local text, number = file:read(SOURCE_MAX) or "", 0
  file:close()
  for line in text:gmatch "([^\n]*)\n" do
    number = number + 1
    if number == place.line then return ("%d\t%s"):format(number, line) end
  end
end

---Where a vCPU is: function and line, the source line, the instruction.
local function whereabouts(vm, cpu)
  local ip = linear_ip(cpu)
  local place = vm:place_of(ip)
  local known = place.symbol or place.file
  local head = known and ("0x%x in %s"):format(ip, tostring(place)) or ("0x%x"):format(ip)
  if vm.cpu[1] then head = ("cpu%d: %s"):format(cpu.index, head) end
  local parts = { head, source_line(vm, place) }
  local code = tostring(cpu:disassemble(1))
  parts[#parts + 1] = code ~= "" and code or "  there is no code in RAM"
  return table.concat(parts, "\n")
end

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
  if info.stop then cpu_number, shown = info.stop.cpu.index, key_of(info.stop) end
  local ok, at = pcall(whereabouts, vm, the_cpu(vm))
  if not ok then return head end
  return head ~= "" and head .. "\n" .. at or at
end

-- ---- running ----

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

local function continue(vm) return run(vm) end

local function step(vm, rest)
  return outcome(vm, the_cpu(vm):step(count_in(rest, 1)))
end

local function next_one(vm, rest)
  local reason, info
  for _ = 1, count_in(rest, 1) do
    reason, info = the_cpu(vm):step_over()
    local kind = reason == "break" and info.stop and info.stop.kind
    if kind ~= "step" and kind ~= "until" then break end
  end
  return outcome(vm, reason, info)
end

local function run_until(vm, rest)
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
    if b then
      lines[#lines + 1] = ("%-3d %s, hit %d times"):format(number, b.text, b.handle.hits)
    end
  end
  return #lines > 0 and table.concat(lines, "\n") or "no breakpoints"
end

local function remember(handle, text, why)
  if not handle then fail("%s", why) end
  count = count + 1
  breakpoints[count] = { handle = handle, text = text }
  return ("%d   %s"):format(count, text)
end

local function add_break(vm, rest)
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
  return remember(handle, ("break %s (0x%x)"):format(rest, address or 0), why)
end

local function add_watch(vm, rest)
  local place, size, how = rest:match "^(.-)%s+(%d+)%s*([rwx]*)$"
  if not place then place, how = rest:match "^(.-)%s+([rwx])$" end
  place = place or rest
  if place == "" then return list_breakpoints() end
  how = how ~= "" and how or "w"
  local address = address_of(vm, place)
  local handle, why = vm:watch(address, math.tointeger(tonumber(size or 4)), how)
  return remember(handle, ("watch 0x%x, %s bytes, %s"):format(address, size or 4, how), why)
end

local function delete(_, rest)
  for number in (rest == "" and "" or rest):gmatch "%S+" do
    local b = breakpoints[math.tointeger(tonumber(number))]
    if not b then fail("there is no breakpoint %s", number) end
    b.handle:remove()
    breakpoints[math.tointeger(tonumber(number))] = nil
  end
  if rest ~= "" then return nil end
  for number, b in pairs(breakpoints) do
    b.handle:remove()
    breakpoints[number] = nil
  end
end

-- ---- looking ----

local BYTES_MAX <const> = 4096

---Bytes at a linear address, as far as they are mapped.
local function read_linear(vm, cpu, address, length)
  local bytes = {}
  for i = 0, length - 1 do
    local at = cpu:translate(address + i)
    if not at or not vm.memory:has(at, 1) then break end
    bytes[#bytes + 1] = vm.memory:read(at, 1)
  end
  return table.concat(bytes)
end

---16 bytes a line, by their linear addresses.
local function dump(address, bytes)
  local lines = {}
  for at = 1, #bytes, 16 do
    local row = bytes:sub(at, at + 15)
    local hex = row:gsub(".", function(c) return ("%02x "):format(c:byte()) end)
    lines[#lines + 1] = ("%08x  %-48s  %s"):format(address + at - 1, hex, (row:gsub("[^ -~]", ".")))
  end
  return table.concat(lines, "\n")
end

local function examine(vm, rest)
  if rest == "" then fail "examine what? x WHERE [BYTES]" end
  local place, length = rest:match "^(.-)%s+(%w+)$"
  local bytes = length and math.tointeger(tonumber(length))
  if not bytes then place, bytes = rest, 64 end
  if bytes < 1 or bytes > BYTES_MAX then fail("1 to %d bytes, not %d", BYTES_MAX, bytes) end
  local address, cpu = address_of(vm, place), the_cpu(vm)
  local found = read_linear(vm, cpu, address, bytes)
  local text = dump(address, found)
  if #found == bytes then return text end
  return ("%s0x%x is not mapped to memory"):format(text ~= "" and text .. "\n" or "",
                                                   address + #found)
end

local function disassemble(vm, rest)
  local cpu, place, number = the_cpu(vm), rest:match "^(.-)%s*(%d*)$"
  if rest:find "^0[xX]" or not rest:find " " and rest:find "%D" then place, number = rest, "" end
  local address = place ~= "" and address_of(vm, place) or nil
  local list = cpu:disassemble(math.tointeger(tonumber(number)) or 8, address)
  if #list == 0 then fail "there is no code there" end
  local lines, last = {}, nil
  local text = tostring(list) .. "\n"
  local i = 0
  for line in text:gmatch "([^\n]*)\n" do
    i = i + 1
    local symbol = list[i] and vm:symbol_at(list[i].address)
    if symbol and symbol ~= last then lines[#lines + 1] = symbol .. ":" end
    last = symbol
    lines[#lines + 1] = line
  end
  return table.concat(lines, "\n")
end

local function where(vm, rest)
  if rest == "" then return whereabouts(vm, the_cpu(vm)) end
  local address = address_of(vm, rest)
  local place = vm:place_of(address)
  local source = source_line(vm, place)
  return ("0x%x  %s%s"):format(address, tostring(place), source and "\n" .. source or "")
end

local function backtrace(vm) return tostring(the_cpu(vm):backtrace()) end
local function locals(vm) return the_cpu(vm):locals() end
local function show_registers(vm) return tostring(the_cpu(vm):registers()) end

local function choose_cpu(vm, rest)
  if rest ~= "" then
    local number = math.tointeger(tonumber(rest))
    local ok, cpu = pcall(function() return vm.cpu[number] end)
    if not ok or not cpu then fail("vm %q has no cpu %s", vm.name, rest) end
    cpu_number = number
  end
  return whereabouts(vm, the_cpu(vm))
end

local current ---@type minikvm.trace?  that of the command `trace`

---"trace FILE", with more than exits and interrupts where that is said; "trace off".
local function trace(vm, rest)
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

-- ---- the list ----

---name, other names, arguments, what it does, what Tab completes, whether Enter repeats it
local COMMANDS <const> = {
  { "step", "s", args = "[N]", help = "one instruction, or N", fn = step, again = true },
  { "next", "n", args = "[N]", help = "the same, but calls at once", fn = next_one,
    again = true },
  { "continue", "c", "run", args = "", help = "run until something stops it; Ctrl-C does",
    fn = continue },
  { "until", "u", args = "WHERE", help = "run until that is reached", fn = run_until,
    tab = { "symbols" } },
  { "break", "b", args = "[WHERE [if CONDITION]]", tab = { "symbols" }, fn = add_break,
    help = "stop there; without a place, the list. The condition is Lua: cpu.rax == 1" },
  { "watch", args = "WHERE [BYTES] [w|r|x]", tab = { "symbols" }, fn = add_watch,
    help = "stop when these bytes (4) are written, read or executed" },
  { "delete", "d", args = "[N ...]", help = "breakpoints and watches with these numbers, or all",
    fn = delete },
  { "where", "w", args = "[WHERE]", help = "function, line and instruction, here or there",
    fn = where, tab = { "symbols" } },
  { "backtrace", "bt", args = "", help = "who called whom", fn = backtrace },
  { "locals", args = "", help = "variables of the function, where there is DWARF", fn = locals },
  { "registers", "r", args = "", help = "registers", fn = show_registers },
  { "disassemble", "dis", args = "[WHERE] [N]", help = "N (8) instructions", fn = disassemble,
    tab = { "symbols" } },
  { "x", args = "WHERE [BYTES]", help = "memory at a linear address: x rsp, x table+16 64",
    fn = examine, tab = { "symbols", "globals" } },
  { "cpu", args = "[N]", help = "the vCPU that commands are about", fn = choose_cpu },
  { "trace", args = "FILE [calls] [instructions]", fn = trace, tab = { "files" },
    help = "exits, interrupts … into a file, from now on (vm:trace); off ends it" },
  { "help", "h", args = "[TOPIC]", help = "this; or on a topic: help vm:run. In Lua: help(vm.run)",
    free = true },
}

local by_name = {}
for _, command in ipairs(COMMANDS) do
  for _, name in ipairs(command) do by_name[name] = command end
end

local function overview()
  local lines = { "Commands, beside Lua; an empty line repeats step and next:" }
  for _, c in ipairs(COMMANDS) do
    local names = table.concat(c, ", ") .. (c.args ~= "" and " " .. c.args or "")
    if #names > 26 then
      lines[#lines + 1] = "  " .. names
      names = ""
    end
    lines[#lines + 1] = ("  %-27s %s"):format(names, c.help)
  end
  lines[#lines + 1] = "WHERE: 0x1000, main, main+4, kernel.c:12, an expression with registers.\n"
    .. "Topics: kvm, vm, cpu, memory, ports, console, snapshot …: help vm, help vm:run, help(vm)"
  return table.concat(lines, "\n")
end

---What `help WORDS` or help(value) says.
---@param topic any  nil: the commands
---@return string
function M.help(topic)
  if topic == nil or topic == "" then return overview() end
  local c = type(topic) == "string" and by_name[topic]
  if c then
    return ("%s %s\n  %s"):format(table.concat(c, ", "), c.args, c.help)
  end
  local text, why = require("minikvm.cli.help").of(topic)
  if not text then error(why, 0) end
  return text
end

function by_name.help.fn(_, rest) return M.help(rest) end

---Names of commands, for completion: of several for one the first.
---@return string[]
function M.names()
  local names = {}
  for i, command in ipairs(COMMANDS) do names[i] = command[1] end
  return names
end

-- ---- lines ----

---Command, and the rest of the line; nil when it is Lua.
local function parse(line)
  local name, rest = line:match "^%s*([%a]+)%s*(.-)%s*$"
  local command = name and by_name[name]
  if not command or rest:find "^[%(%.:=%[,]" then return nil end
  local taken = rawget(_G, name)
  if taken ~= nil and name ~= "next" and taken ~= M.help_function then return nil end
  if line:find "^%s*[%a]+['\"{]" then return nil end
  return command, rest
end

---What Tab completes behind a command; nil when it is none.
---@return string[]?
function M.arguments(line)
  local command = parse(line)
  return command and (command.tab or {})
end

local last ---@type function?  what an empty line repeats

---The function of a line that is a command; nil when it is Lua. What it returns is printed.
---@param line string
---@return (fun(): any)?
function M.find(line)
  if line:find "^%s*$" then return last end
  local command, rest = parse(line)
  last = nil
  if not command then return nil end
  local function call() return command.fn(command.free or the_vm(), rest) end
  if command.again then last = call end
  return call
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

---The global `help` at the prompt: prints what there is to say of a value.
function M.help_function(topic)
  print(M.help(topic))
end

return M
