-- keep.lua - what is kept of one VM of a test that failed, as files in a folder: what it printed,
-- what of that was waited for, its screen, why it ended, its stack, registers, last exits, files,
-- and a snapshot.
--
-- Nothing here fails as a whole: what cannot be had is left out, and a file that cannot be written
-- is told by the caller's write().

local core = require "minikvm.core"
local text_of = require "minikvm.test.text"

local M = {}

local LINES <const> = 200 -- of exits kept
local WAITS <const> = 200 -- of those of one VM
local CPUS <const> = 4
local FRAMES <const> = 32
local CONSOLE <const> = 4 << 20 -- bytes of a log; the middle of a longer one is left out
local FILES <const>, FILE <const> = 64, 256 << 10 -- of its own files; bytes copied of each

-- ---- while it runs ----

---Keeps the last exits of a VM from now on, in a ring.
---@param vm minikvm.vm
---@return fun(): { seconds: number, line: string }[]  what there is
function M.exits(vm)
  local ring, count, began = {}, 0, core.now()
  require("minikvm.debug.trace").add(vm, { fn = function(line)
    ring[count % LINES] = { seconds = core.now() - began, line = line }
    count = count + 1
  end })
  return function()
    local list = {}
    for i = math.max(0, count - LINES), count - 1 do list[#list + 1] = ring[i % LINES] end
    return list
  end
end

---@class minikvm.keep.wait
---@field words string  what was waited for
---@field from integer  where it begins in all that was printed, or where it was waited for from
---@field to integer
---@field why string?  it did not come

---Adds a wait for output, as expect.lua tells of it, to those of its VM. One that ended behind the
---place where this one began was undone by a restore.
---@param waits minikvm.keep.wait[]
function M.add_wait(waits, wait, why, from, to)
  local began = wait.began
  if wait.cpu ~= 0 or wait.screen and not why then return end
  while #waits > 0 and waits[#waits].to > began do table.remove(waits) end
  if #waits == WAITS then table.remove(waits, 1) end
  local words = ("%s %s"):format(wait.what,
                                 require("minikvm.console.expect_report").quoted(wait.patterns))
  waits[#waits + 1] = { words = words, why = why, from = why and began or from,
                        to = why and began or to }
end

-- ---- what it printed ----

---The waits with their places in the kept log, whose first byte is number `first` of all.
local function waits_text(waits, first, length)
  local lines = {}
  for _, wait in ipairs(waits) do
    local from, to = wait.from - first, wait.to - first
    if wait.why then
      lines[#lines + 1] = ("- - %s: %s\n"):format(wait.words, wait.why)
    elseif from >= 0 and to <= length then
      lines[#lines + 1] = ("%d %d %s\n"):format(from, to, wait.words)
    end
  end
  return table.concat(lines)
end

local function save_console(vm, path, waits, write)
  local text, total = vm.console:text()
  write(path .. "/console.log", text_of.cut(text, CONSOLE))
  if #waits > 0 and #text <= CONSOLE then
    write(path .. "/waits.txt", waits_text(waits, total - #text, #text))
  end
  if total > #text then
    write(path .. "/console-total.txt", ("%d bytes were printed; the last %d are kept\n"):format(
      total, #text))
  end
end

-- ---- its screen ----

---The screen as text and picture; that of a VM without one, or one that nothing was written to, as
---a terminal would show its output.
local function save_screen(vm, path, write)
  local there, screen = pcall(vm.screen, vm)
  local text = there and screen:text() or ""
  local picture, why
  if there and (screen:size() or text:find "[^%s]") then
    picture, why = screen:png()
  else
    local rows, cells = require("minikvm.console.scroll").of((vm.console:text()))
    text, picture, why = table.concat(rows, "\n"), require("minikvm.console.screen").picture(cells)
  end
  write(path .. "/screen.txt", text .. "\n")
  if picture then write(path .. "/screen.png", picture) end
  if not picture then write(path .. "/no-screen.txt", why .. "\n") end
end

-- ---- its processor ----

---Calls fn(index, info) for the first vCPUs, whose info is that of their last run, if there is one;
---what it returns are the parts of a text.
local function of_cpus(vm, fn)
  local _, info = require("minikvm.console.expect_report").last_result(vm)
  local parts = {}
  for i = 0, CPUS - 1 do
    local there, cpu = pcall(function() return vm.cpu[i] end)
    if not there or not cpu then break end
    local one = info and info.cpu[i] or { reason = "stopped", bytes = "", text = "" }
    local fine, text = pcall(fn, i, one)
    parts[#parts + 1] = fine and text or ("unknown: " .. tostring(text))
  end
  return table.concat(parts, "\n") .. "\n"
end

local function registers(vm)
  local explain = require "minikvm.vm.explain"
  return of_cpus(vm, function(i, info)
    return ("vCPU %d\n%s\n"):format(i, explain.report(vm, info, i))
  end)
end

local function cause(vm)
  local explain, told = require "minikvm.vm.explain", require "minikvm.console.expect_report"
  return of_cpus(vm, function(i, info)
    local line = told.cpu_line(vm, i):gsub("^%s+", "")
    local why = explain.cause(vm, info, i)
    return why and line .. "\n" .. why or line
  end)
end

local function stack(vm)
  return of_cpus(vm, function(i)
    return ("vCPU %d\n%s\n"):format(i, vm.cpu[i]:backtrace{ limit = FRAMES })
  end)
end

-- ---- its exits ----

---Who serves a port.
local function owner_of(rows, port)
  for _, row in ipairs(rows) do
    if row.kind == "port" and row.first <= port and port <= row.last then return row.owner end
  end
  return "nobody"
end

---An exit in words: who serves it, and a character that is one.
local function decode(rows, line)
  local how, port, value = line:match "(%l+) +port=0x(%x+) size=%d value=0x(%x+)"
  if not how then return line end
  port, value = tonumber(port, 16), tonumber(value, 16)
  local owner = owner_of(rows, port)
  local letter = value > 32 and value < 127 and (" '%c'"):format(value) or ""
  return ("%s  ; %s%s"):format(line, owner, (port == 0xe9 or port == 0x3f8) and letter or "")
end

local function exits_text(vm, list)
  local rows = vm:stats{ all = true }
  local lines = {}
  for i, exit in ipairs(list) do
    lines[i] = ("%12.6f %s\n"):format(exit.seconds, decode(rows, exit.line))
  end
  return table.concat(lines)
end

-- ---- its files ----

---Files below a folder: names and sizes, links not followed.
local function list_files(folder, inner, list)
  local lfs = require "lfs"
  for name in lfs.dir(folder .. inner) do
    local path = inner .. "/" .. name
    local mode = name ~= "." and name ~= ".." and lfs.symlinkattributes(folder .. path, "mode")
    if mode == "directory" then
      list_files(folder, path, list)
    elseif mode == "file" and #list < FILES then
      list[#list + 1] = { name = path:sub(2), size = lfs.attributes(folder .. path, "size") }
    end
  end
  return list
end

local function read_head(path, most)
  local file <close> = io.open(path, "rb")
  return file and file:read(most) or ""
end

---Lists the VM's own files, and copies the beginning of each: its directory goes with the VM.
local function save_files(vm, path, write, mkdirs)
  local folder = vm.files:directory()
  local fine, audit = pcall(function() return vm.files:audit() end)
  local lines = {}
  for _, file in ipairs(folder and list_files(folder, "", {}) or {}) do
    lines[#lines + 1] = ("%10d %s\n"):format(file.size, file.name)
    local to = path .. "/files/" .. file.name
    mkdirs(to:match "^(.*)/")
    write(to, read_head(folder .. "/" .. file.name, FILE))
  end
  for _, e in ipairs(fine and audit or {}) do
    lines[#lines + 1] = ("%s %s: %s, %d bytes%s\n"):format(
      e.op, e.name, e.verdict, e.bytes, e.error and ", " .. e.error or "")
  end
  if #lines > 0 then write(path .. "/files.txt", table.concat(lines)) end
end

-- ---- all of it ----

local function save_snapshot(vm, path, write)
  local fine, snap, why = pcall(function() return vm:snapshot() end)
  if fine and snap then fine, snap, why = pcall(snap.save, snap, path .. "/snapshot") end
  if not fine or not snap then write(path .. "/no-snapshot.txt", tostring(why or snap) .. "\n") end
end

---Keeps a VM, which does not run.
---@param vm minikvm.vm
---@param path string  an empty folder
---@param known { exits: function?, waits: minikvm.keep.wait[]? }
---@param tools { write: fun(path: string, text: string), mkdirs: fun(path: string) }
function M.save(vm, path, known, tools)
  local write = tools.write
  local function try(fn, ...)
    local fine, why = pcall(fn, ...)
    if not fine then write(path .. "/incomplete.txt", tostring(why) .. "\n") end
  end
  try(save_console, vm, path, known.waits or {}, write)
  try(function() write(path .. "/cause.txt", cause(vm)) end)
  try(function() write(path .. "/stack.txt", stack(vm)) end)
  try(function() write(path .. "/registers.txt", registers(vm)) end)
  try(function()
    if known.exits then write(path .. "/exits.log", exits_text(vm, known.exits())) end
  end)
  try(save_screen, vm, path, write)
  try(save_files, vm, path, write, tools.mkdirs)
  save_snapshot(vm, path, write)
end

return M
