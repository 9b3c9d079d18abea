-- artefacts.lua - what is kept of a test that failed: a folder with the message, the command that
-- repeats it, and a folder for each VM that it used (keep.lua).
--
-- Works in Busted, whoever started it. It knows the VMs because it stands in the way of those who
-- make them (WATCHED), and looks at them when an error is raised, before the stack is unwound and
-- to-be-closed variables close them: Busted asks for a trace just then.

local core = require "minikvm.core"
local folder_of = require "minikvm.folder"
local keep = require "minikvm.test.keep"
local quote = require("minikvm.shell").quote

local M = {}

local WATCHED <const> = { "new_vm" }
local MOST <const> = 8 -- VMs of one test

-- VM -> { test = the test that made it or nil, waits = for its output, exits = its last ones }
local vms = setmetatable({}, { __mode = "k" })
local settings = {}
local now ---@type table?  the test that runs: { element=, name=, file=, used = {}, folder= }
local last ---@type table?  the one that ended

-- ---- VMs ----

---Keeps the last exits of a VM from now on.
---@param vm minikvm.vm
function M.keep_exits(vm)
  local known = vms[vm]
  if known and not known.exits then known.exits = keep.exits(vm) end
end

local function note_wait(wait, ...)
  local known = vms[wait.vm]
  if known then keep.add_wait(known.waits, wait, ...) end
end

local function note(vm, ...)
  if type(vm) == "userdata" then
    vms[vm] = { test = now, waits = {} }
    if settings.trace then M.keep_exits(vm) end
  elseif type(vm) == "table" then
    for _, one in ipairs(vm) do note(one) end
  end
  return vm, ...
end

local function watch(name)
  local make = core[name]
  if make then core[name] = function(...) return note(make(...)) end end
end

---Says that the running test uses a VM that was there before it.
---@param vm minikvm.vm
function M.use(vm)
  if now then now.used[vm] = true end
end

---The VMs that concern a test: its own, those it uses, and those of no test; the first ones.
local function concerned(test)
  local list = {}
  for vm, known in pairs(vms) do
    if vm.state ~= "closed" and (known.test == test or known.test == nil or test.used[vm]) then
      list[#list + 1] = vm
    end
  end
  table.sort(list, function(a, b)
    local mine_a = vms[a].test == test or test.used[a] or false
    local mine_b = vms[b].test == test or test.used[b] or false
    if mine_a ~= mine_b then return mine_a end
    return a.name < b.name
  end)
  return table.move(list, 1, math.min(#list, MOST), 1, {})
end

local function running(of_test)
  local list = {}
  for vm, known in pairs(vms) do
    if vm.state == "running" and (not of_test or known.test == last or last.used[vm]) then
      list[#list + 1] = vm
    end
  end
  return list
end

---Closes the VMs that the last test, or anybody at all, has left running. One that nobody refers to
---does not count: the collector ends it, and it is asked to.
---@param of_test boolean
---@return string? text  what was left, for people
function M.left_running(of_test)
  if #running(of_test) == 0 then return nil end
  collectgarbage()
  collectgarbage()
  local names = {}
  for i, vm in ipairs(running(of_test)) do
    names[i] = vm.name
    vm:close()
  end
  if #names == 0 then return nil end
  table.sort(names)
  return ("left %s running: %s (stop or close what a test starts)"):format(
    #names == 1 and "a VM" or #names .. " VMs", table.concat(names, ", "))
end

-- ---- the folder ----

local function file_name(text)
  local name = text:gsub("[^%w%-_.]+", "-"):gsub("^[-.]+", ""):sub(1, 80)
  return name == "" and "x" or name
end

---A folder of this name that nobody has yet: "name", "name-2", …
---@param parent string
---@param name string
---@return string? path
---@return string? why
function M.new_folder(parent, name)
  local lfs = require "lfs"
  local made, why = folder_of.make_all(parent)
  if not made then return nil, why end
  local base, i = parent .. "/" .. file_name(name), 1
  local path = base
  while true do
    made, why = lfs.mkdir(path)
    if made then return path end
    if not lfs.symlinkattributes(path, "mode") then return nil, ("%s: %s"):format(path, why) end
    i = i + 1
    path = ("%s-%d"):format(base, i)
  end
end

---Writes one of the files, in a folder that is new; the first that fails is told beside that.
local function write(path, text)
  local file, why = io.open(path, "wb")
  local done = file
  if file then
    done, why = file:write(text)
    local closed, late = file:close()
    if done and not closed then done, why = closed, late end
    if not done then why = ("%s: %s"):format(path, why) end
  end
  if not done and now then now.incomplete = now.incomplete or why end
end

---How this program, or this Lua with the module, runs the words of `minikvm test`.
local RUNNER <const> = [[
exec %s - %s <<'EOF'
require "minikvm"
os.exit(require("minikvm.test.runner").main(arg), true)
EOF
]]

---A script for sh that repeats one test, wherever it is started.
local function reproduce(test)
  local exact = "^" .. test.name:gsub("%W", function(c)
    return c:byte() < 128 and not c:find "%c" and c ~= " " and "%" .. c or c
  end) .. "$"
  local words = settings.seed and ("--seed %d "):format(settings.seed) or ""
  words = ("%s--trace --filter %s %s"):format(words, quote(exact),
                                              quote(settings.file or test.file))
  local lines = { "#!/bin/sh", "cd " .. quote(require("lfs").currentdir()) .. " || exit" }
  for _, name in ipairs{ "LUA_PATH", "LUA_CPATH" } do
    local value = os.getenv(name)
    if value then lines[#lines + 1] = ("export %s=%s"):format(name, quote(value)) end
  end
  local program = quote(core.process().program)
  lines[#lines + 1] = package.preload.minikvm and ("exec %s test %s\n"):format(program, words)
    or RUNNER:format(program, words)
  return table.concat(lines, "\n")
end

local function save_vm(folder, vm)
  if vm.state == "running" then vm:stop() end
  local path, problem = M.new_folder(folder, vm.name)
  if not path then
    now.incomplete = now.incomplete or problem
    return
  end
  keep.save(vm, path, vms[vm], { write = write, mkdirs = folder_of.make_all })
end

---Keeps all there is of the test that runs, once.
local function save(message)
  local test = now
  if test.tried then return end
  test.tried = true
  local stem = file_name((test.file:gsub("%.lua$", "")))
  local folder, why = M.new_folder(settings.folder .. "/" .. stem, test.name)
  test.folder, test.incomplete = folder, why
  if not folder then return end
  write(folder .. "/message.txt", message .. "\n")
  write(folder .. "/reproduce.sh", reproduce(test))
  for _, vm in ipairs(concerned(test)) do pcall(save_vm, folder, vm) end
end

---Keeps the artefacts of the running test now; what fails later in it changes nothing.
---@param message string
function M.keep(message)
  if now then pcall(save, message) end
end

---What was kept of the last test, and where, for people; nil when nothing was to be.
---@return string? text
---@return string? folder
function M.saved()
  if not last or not last.tried then return nil end
  local missing = last.incomplete and tostring(last.incomplete)
  if not last.folder then return ("nothing was kept: %s"):format(missing) end
  local text = "kept in " .. last.folder .. (missing and (", incomplete: %s"):format(missing) or "")
  return text, last.folder
end

-- ---- Busted ----

---"describe describe it", as Busted's own handlers have it.
---@param element table  of Busted
---@return string
function M.full_name(element)
  local busted, names = require "busted", {}
  while element and (element.name or element.descriptor) and element.descriptor ~= "file" do
    table.insert(names, 1, tostring(element.name or element.descriptor))
    element = busted.parent(element)
  end
  return table.concat(names, " ")
end

local function file_of(element)
  local busted = require "busted"
  while element and element.descriptor ~= "file" do element = busted.parent(element) end
  return element
end

local function is_pending(message)
  local meta = debug.getmetatable(message)
  return meta ~= nil and meta.__type == "pending"
end

---Busted asks the file for the trace of an error while the stack is still whole.
local function listen_for_errors(file)
  local run = file and file.run
  if type(run) ~= "table" or not run.getTrace or rawget(run, "minikvm") then return end
  local get = run.getTrace
  run.minikvm = true
  run.getTrace = function(name, info)
    if now and info.message ~= nil and not is_pending(info.message) then
      local trace = tostring(info.traceback):gsub("\n\t%[C%]: in function 'xpcall'.*", "")
      M.keep(tostring(info.message) .. "\n" .. trace)
    end
    return get(name, info)
  end
end

local function test_start(element)
  local file = file_of(element)
  now = { element = element, name = M.full_name(element), file = file and file.name or "?",
          used = {} }
  listen_for_errors(file)
  return nil, true
end

local function test_end()
  last, now = now, nil
  return nil, true
end

---The reason why the running test ends here: it is reported as skipped.
---@param why string
function M.skip(why)
  if not now then error("only inside a test", 2) end
  now.element.env.pending(why)
end

---The test that runs; nil outside of one.
---@return table?
function M.test()
  return now
end

---Where to, and how a test is repeated: `file` by its path, with this seed.
---@param o { folder: string, file: string?, seed: integer?, trace: boolean? }
function M.configure(o)
  settings = o
end

local installed = false

---Begins to look after tests. Busted must be there.
function M.install()
  if installed then return end
  installed = true
  local artefacts = os.getenv "ARTEFACTS"
  settings.folder = settings.folder or artefacts ~= "" and artefacts or "build/artefacts"
  for _, name in ipairs(WATCHED) do watch(name) end
  require("minikvm.console.expect").observer = note_wait
  local busted = require "busted"
  busted.subscribe({ "test", "start" }, test_start, { priority = 1 })
  busted.subscribe({ "test", "end" }, test_end, { priority = 1 })
end

return M
