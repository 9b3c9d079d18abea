-- cli/commands_look.lua - commands at the prompt that look: where, x, disassemble, registers …; and
-- what all commands share: the VM and the vCPU that they are about, places and values in a line.

local core = require "minikvm.core"
local registers = require "minikvm.vm.registers"

local M = {}

local cpu_number = 0 -- the vCPU that commands are about

---Raises a message for the user.
function M.fail(text, ...) error(text:format(...), 0) end

local fail = M.fail

---The VM in the global vm.
function M.vm()
  local vm = rawget(_G, "vm")
  if core.kind(vm) ~= "minikvm.vm" then
    fail "there is no VM: commands are about the one in the global vm, vm = kvm.vm{ … }"
  end
  if vm.state == "closed" then fail("vm %q is closed", vm.name) end
  return vm
end

---The vCPU that commands are about.
function M.cpu(vm)
  local ok, cpu = pcall(function() return vm.cpu[cpu_number] end)
  if not ok or not cpu then cpu_number = 0 end
  return vm.cpu[cpu_number]
end

---Makes it that with this number.
function M.choose(number) cpu_number = number end

local the_cpu = M.cpu

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
function M.address_of(vm, text)
  local cpu = the_cpu(vm)
  local chunk = load("return " .. text, "=command", "t", environment(vm, cpu))
  local ok, value = pcall(chunk or error)
  if ok and type(value) == "number" and math.tointeger(value) then return math.tointeger(value) end
  local address, why = vm:address_of(text)
  if not address then fail("%s", why) end
  return address
end

---What break_at is given: an address when it is one to Lua, else the words.
function M.place_in(text)
  return math.tointeger(tonumber(text)) or text
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
function M.whereabouts(vm, cpu)
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

-- ---- looking ----

local BYTES_MAX <const> = 4096

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

function M.examine(vm, rest)
  if rest == "" then fail "examine what? x WHERE [BYTES]" end
  local place, length = rest:match "^(.-)%s+(%w+)$"
  local bytes = length and math.tointeger(tonumber(length))
  if not bytes then place, bytes = rest, 64 end
  if bytes < 1 or bytes > BYTES_MAX then fail("1 to %d bytes, not %d", BYTES_MAX, bytes) end
  local address = M.address_of(vm, place)
  local found = core.linear_read(the_cpu(vm), address, bytes)
  local text = dump(address, found)
  if #found == bytes then return text end
  return ("%s0x%x is not mapped to memory"):format(text ~= "" and text .. "\n" or "",
                                                   address + #found)
end

function M.disassemble(vm, rest)
  local cpu, place, number = the_cpu(vm), rest:match "^(.-)%s*(%d*)$"
  if rest:find "^0[xX]" or not rest:find " " and rest:find "%D" then place, number = rest, "" end
  local address = place ~= "" and M.address_of(vm, place) or nil
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

function M.where(vm, rest)
  if rest == "" then return M.whereabouts(vm, the_cpu(vm)) end
  local address = M.address_of(vm, rest)
  local place = vm:place_of(address)
  local source = source_line(vm, place)
  return ("0x%x  %s%s"):format(address, tostring(place), source and "\n" .. source or "")
end

function M.backtrace(vm) return tostring(the_cpu(vm):backtrace()) end
function M.locals(vm) return the_cpu(vm):locals() end
function M.registers(vm) return tostring(the_cpu(vm):registers()) end

function M.choose_cpu(vm, rest)
  if rest ~= "" then
    local number = math.tointeger(tonumber(rest))
    local ok, cpu = pcall(function() return vm.cpu[number] end)
    if not ok or not cpu then fail("vm %q has no cpu %s", vm.name, rest) end
    cpu_number = number
  end
  return M.whereabouts(vm, the_cpu(vm))
end

return M
