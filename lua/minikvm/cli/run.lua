-- cli/run.lua - minikvm run: the VMs of its images, what is said of their ends.
--
-- Guest output goes to stdout, everything else to stderr; with --json stdout has one document and
-- nothing else (run_json.lua). The status reflects how the guest ended:
-- STATUS below; of several VMs the highest counts.

local complain = require("minikvm.cli.say").complain

local M = {}

local USAGE <const> = 2

---By reason; "exit" is the guest's own code.
local STATUS = {
  halt = 0, stopped = 0, error = 1, deadline = 124, limit = 124,
  forbidden = 124, panic = 134, shutdown = 134, fault = 134,
}

---What is wrong in a call's arguments is raised, and here it is the user's command line: nil, the
---message without our own file and line, status 2. What the world refuses: status 1.
function M.attempt(what, fn, ...)
  local results = table.pack(pcall(fn, ...))
  if not results[1] then
    local text = tostring(results[2])
    if text:find("interrupted!", 1, true) then error(results[2], 0) end
    complain(what, require("minikvm.options").without_place(text))
    return nil, USAGE
  elseif results[2] == nil or results[2] == false then
    complain(what, tostring(results[3]))
    return nil, 1
  end
  return table.unpack(results, 2, results.n)
end

---Options of kvm.vm for the image of this number.
local function vm_options(opts, i)
  local name, several = opts.names[i], #opts.guests > 1
  local coalesce, trace
  if opts.no_coalesce or opts.trace or opts.trace_file then coalesce = false end
  if opts.trace then
    trace = function(line) io.stderr:write("[", name, "] ", line, "\n") end
  end
  return {
    name = name, mode = opts.mode, memory = opts.memory, limits = opts.limit,
    unhandled = opts.unhandled, coalesce = coalesce, echo = not several and not opts.json,
    trace = trace,
    irqchip = opts.irqchip or (opts.screen or opts.view) and "pic" or nil,
    page_size = opts.page_size,
    cmdline = opts.cmdline, assist = not opts.no_assist, stats = opts.stats,
  }
end

---The whole terminal is the VM's screen and keyboard.
local function take_terminal(vm, opts, host)
  if not (host.terminal and require("minikvm.core").process().terminal) then
    return nil, "--screen: standard input and output are to be a terminal"
  elseif opts.shells[vm] then
    return nil, "--screen: Linux has its console on a serial line here, and draws on no screen"
  end
  io.stderr:write("minikvm: Ctrl-A x leaves\n")
  vm.console:attach()
  local terminal, why, code = require("minikvm.console.terminal").take(vm)
  opts.screens[vm] = terminal
  return terminal, why, code
end

---Several VMs get no keyboard: a terminal can be typed into by one at a time.
local function connect(vm, opts, host)
  if opts.prompt and not opts.input then return true end
  if opts.screen then return take_terminal(vm, opts, host) end
  local several = #opts.guests > 1
  if several and not opts.json then
    vm.console:on_line(function(line) print(("[%s] %s"):format(vm.name, line)) end)
  elseif opts.shells[vm] then
    require("minikvm.cli.linux").connect(vm, opts, host)
    return true
  end
  if opts.input then return vm.console:input(opts.input) end
  if several then
    vm.console:eof()
    return true
  end
  if host.terminal then io.stderr:write("minikvm: Ctrl-A x leaves\n") end
  if host.terminal and opts.screens[vm] and not opts.json
    and require("minikvm.core").process().terminal then
    opts.screens[vm] = require("minikvm.console.terminal").show(vm)
  end
  return vm.console:attach():echo(not opts.json)
end

---Lets gdb in, where the command line says so.
local function offer_gdb(vm, opts)
  local where = opts.gdb or opts.gdb_on_crash
  if not where then return true end
  local gdb, why, code = vm:gdb{ at = where, on = opts.gdb and "now" or "crash",
                                 notify = function(text) complain(vm.name, text) end }
  if not gdb then return nil, why, code end
  if opts.gdb then complain(vm.name, "it waits for gdb: target remote " .. gdb.address) end
  opts.debugger = gdb
  return true
end

---Shows the screen to browsers, where the command line says so.
local function offer_view(vm, opts)
  if not opts.view then return true end
  local view, why, code = require("minikvm.view").open(vm, nil, opts.view_socket)
  if view then complain(vm.name, "its screen: " .. view.url) end
  return view, why, code
end

---The image of a VM whose mode nobody chose, and which does not say it; nil when there is none.
local function open_image(vm, opts)
  local image = require("minikvm.image").of(vm)[1]
  if image and not opts.mode and vm.mode == "real" and image.plan.format == "flat" then
    return image
  end
end

local UNTOLD <const> = "in real mode, as the image does not say which and no --mode was given; "

---Says before the run that the code looks like that of another mode.
local function warn_of_mode(vm, opts)
  local function as_mode(mode) return "--mode " .. mode end
  local looks = require("minikvm.image.guess").of_vm(vm, as_mode)
  if looks then complain(vm.name, "it runs " .. UNTOLD .. looks) end
  opts.warned[vm] = looks
end

---What --module names, as vm:load's option has it.
local function modules_of(list)
  local modules = {}
  for i, word in ipairs(list or {}) do
    local path, text = word:match "^([^=]*)=(.*)$"
    modules[i] = { path = path or word, text = text }
  end
  return #modules > 0 and modules or nil
end

---Makes the VM of an image and loads it; nil, status when something was said.
local function make_vm(kvm, opts, i)
  local name, path, o = opts.names[i], opts.guests[i], vm_options(opts, i)
  local make = require("minikvm.cli.kinds").find(path, opts)
  if make then return make(kvm, opts, path, o) end
  require "minikvm.image" -- now, as another thread still opens KVM
  local vm, status = M.attempt(name, kvm.vm, o)
  if not vm then return nil, status end
  local done
  done, status = M.attempt(name, vm.load, vm, path, {
    at = opts.at, entry = opts.entry, modules = modules_of(opts.module),
    framebuffer = opts.framebuffer })
  if done then return vm end
  vm:close()
  return nil, status
end

---Begins the trace that goes to a file.
local function trace_to_file(vm, opts)
  if not opts.trace_file then return true end
  local trace, status = M.attempt(vm.name, vm.trace, vm, {
    exits = true, interrupts = true, calls = opts.trace_calls,
    instructions = opts.trace_instructions, file = opts.trace_file, limit = opts.trace_limit })
  opts.traces[vm] = trace
  return trace and true, status
end

---Completes it, and says what is missing in it.
local function end_trace(vm, opts)
  local trace = opts.traces[vm]
  if not trace then return 0 end
  trace:remove()
  local name = vm.name .. ": " .. opts.trace_file
  if trace.full then complain(name, "the limit is reached: what followed is not in it") end
  if trace.error then
    complain(name, ("%s: not all is in it"):format(trace.error))
  elseif trace.lost > 0 then
    complain(name, ("%d events are not in it, its reader is slow or gone"):format(trace.lost))
  end
  return trace.error and 1 or 0
end

local function load_symbols(vm, opts)
  for _, file in ipairs(opts.symbols or {}) do
    local done, why, code = vm:load_symbols(file.path, file.offset)
    if not done then return nil, why, code end
  end
  return true
end

local function prepare(kvm, opts, i, host)
  local vm, status = make_vm(kvm, opts, i)
  if not vm then return nil, status end
  warn_of_mode(vm, opts)
  local done
  done, status = M.attempt(opts.names[i], load_symbols, vm, opts)
  if done then done, status = M.attempt(opts.names[i], connect, vm, opts, host) end
  if done then done, status = trace_to_file(vm, opts) end
  if done then done, status = M.attempt(opts.names[i], offer_gdb, vm, opts) end
  if done then done, status = M.attempt(opts.names[i], offer_view, vm, opts) end
  if done then return vm end
  vm:close()
  return nil, status
end

---Reports on stderr an end that is not clean; returns the process's exit status for it.
---@param name string  of the VM
---@param reason string?  what vm:run() returned
---@param info table|string
---@return integer
function M.conclude(name, reason, info)
  if not reason then
    complain(name, tostring(info))
    return 1
  end
  local status = STATUS[reason] or 1
  if reason == "exit" then
    local code = info.code or 0
    status = code >= 0 and math.min(code, 255) or 255
  end
  if status ~= 0 or reason == "stopped" then
    local place = info.place and not info.report and ("; it was in " .. info.place) or ""
    complain(name, reason, (info.text or "") .. place)
  end
  if info.report then io.stderr:write(info.report, "\n") end
  if info.traceback then io.stderr:write(info.traceback, "\n") end
  return status
end

local TAIL <const> = 64 -- bytes looked at of an output

---Whether a guest prints one and the same byte, as code in the wrong mode does.
local function repeats_a_byte(vm)
  local text = vm.state ~= "closed" and vm.console:text():sub(-TAIL) or ""
  return #text == TAIL and text == text:sub(1, 1):rep(TAIL)
end

---Why a guest may have gone wrong: a flat image does not say which mode it is for, and of a disk
---only the boot sector is there. What was said before the run is said again when the output, which
---repeats a byte, has carried it off the screen.
local function load_note(vm, opts, repeats)
  local image = require("minikvm.image").of(vm)[1]
  if image and image.plan.format == "boot" then
    return "its boot sector was loaded, and there is no BIOS whose services it could call: "
      .. "try --bios lua"
  end
  if not open_image(vm, opts) or opts.warned[vm] and not repeats then return nil end
  return "it ran " .. UNTOLD .. (opts.warned[vm] or "there are protected, paged and long")
end

local WORTH_A_NOTE <const> = { deadline = true, limit = true, panic = true, shutdown = true,
                               fault = true }

---conclude() for a VM that ran.
---@param note string?  of load_note
---@param repeats boolean  of repeats_a_byte
local function conclude(name, reason, info, note, repeats)
  local status = M.conclude(name, reason, info)
  if note and (WORTH_A_NOTE[reason] or repeats) then complain(name, note) end
  return status
end

local function show_stats(vm, opts)
  if not opts.stats or opts.json then return end
  io.stderr:write(#opts.guests > 1 and ("[%s]\n"):format(vm.name) or "", tostring(vm:stats()), "\n")
end

---Writes the picture that --screenshot asks for; returns the exit status for it.
local function save_screen(vm, opts)
  if not opts.screenshot or vm.state == "closed" then return 0 end
  local ok, status = M.attempt(vm.name, function() return vm:screen():png(opts.screenshot) end)
  return ok and 0 or status
end

---Keeps what --json prints of a VM that ran and is not closed yet.
local function keep(vm, opts, reason, info)
  if not opts.json then return end
  opts.entries[vm] = require("minikvm.cli.run_json").entry(vm, reason, info, opts.stats)
end

---Adds the exit status that its end makes, and returns it.
local function with_status(vm, opts, status)
  if opts.json then opts.entries[vm].status = status end
  return status
end

local function run_one(vm, opts)
  local done, reason, info = pcall(M.attempt, vm.name, vm.run, vm, { deadline = opts.deadline })
  local name, repeats = vm.name, repeats_a_byte(vm)
  local note = load_note(vm, opts, repeats)
  if opts.shells[vm] and opts.disk then require("minikvm.cli.linux").tell_failures(vm) end
  keep(vm, opts, done and reason, done and info or "interrupted")
  if done then show_stats(vm, opts) end
  local saved = math.max(save_screen(vm, opts), end_trace(vm, opts))
  local shown = opts.screens[vm]
  local last = type(shown) == "table" and vm.state ~= "closed" and shown:finish() or ""
  if opts.debugger then opts.debugger:remove() end -- gdb is told of the end
  vm:close() -- the terminal is itself again before we write
  io.stdout:write(last)
  if not done then -- Ctrl-C
    if note and repeats then complain(name, note) end
    error(reason, 0)
  end
  if not reason then return with_status(vm, opts, info) end
  io.stdout:flush()
  return with_status(vm, opts, math.max(saved, conclude(name, reason, info, note, repeats)))
end

local function run_several(kvm, vms, opts)
  local status, started = 0, {}
  for _, vm in ipairs(vms) do
    local ok, why = M.attempt(vm.name, vm.start, vm, { deadline = opts.deadline })
    if ok then
      started[#started + 1] = vm
    else
      keep(vm, opts, nil, why)
      status = math.max(status, with_status(vm, opts, why))
    end
  end
  for _, r in ipairs(#started > 0 and kvm.wait(started) or {}) do
    local repeats = repeats_a_byte(r.vm)
    keep(r.vm, opts, r.reason, r.info)
    local its = conclude(r.vm.name, r.reason, r.info, load_note(r.vm, opts, repeats), repeats)
    status = math.max(status, with_status(r.vm, opts, its))
    show_stats(r.vm, opts)
  end
  return status
end

local PROMPT <const> = [[
minikvm: loaded, not running. continue runs it, step and break go through it, x and registers look;
vm:start() runs it beside the prompt, vm:pause() holds it. help has the rest; Tab completes.
]]

---The user's own turn, with the VMs in globals.
local function offer(vms)
  _G.kvm, _G.vm, _G.vms = require "minikvm", vms[1], vms
  io.stderr:write(PROMPT)
end

local function close_all(vms)
  for _, vm in ipairs(vms) do vm:close() end
end

---All images are loaded before the first one runs: a wrong name stops nothing half way.
---@return table[] vms  those that were loaded
---@return integer status  0 when all were
local function prepare_all(kvm, opts, host)
  local vms = {}
  for i = 1, #opts.guests do
    local vm, status = prepare(kvm, opts, i, host)
    if not vm then return vms, status end
    vms[i] = vm
  end
  return vms, 0
end

---Runs them to their ends; with --json tells of these, also when Ctrl-C was one.
local function run_all(kvm, vms, opts)
  local done, status = pcall(function()
    return #vms == 1 and run_one(vms[1], opts) or run_several(kvm, vms, opts)
  end)
  if opts.json then require("minikvm.cli.run_json").print(opts, vms, done and status or 130) end
  if not done then error(status, 0) end
  return status
end

---A name for each VM: as given, else the file's, numbered where the same file runs twice.
local function choose_names(opts)
  local names, seen = {}, {}
  for i, path in ipairs(opts.guests) do
    local given = opts.name and opts.name[i]
    local name = given or path:match("([^/]+)$") or path
    if not given then name = name:match("^(.+)%.%w+$") or name end
    seen[name] = (seen[name] or 0) + 1
    names[i] = seen[name] == 1 and name or ("%s-%d"):format(name, seen[name])
  end
  return names
end

---What a command line says; words alone are images, which takes no parser to tell.
---@return table? opts  nil when there is nothing to run
---@return integer? status  then, of the process
local function read_words(argv, prompt)
  for i = 1, math.max(#argv, 1) do
    if not argv[i] or argv[i]:sub(1, 1) == "-" then
      return require("minikvm.cli.run_options").parse(argv, prompt)
    end
  end
  return { guests = argv, limit = {}, prompt = prompt }
end

---Carries out the command line behind "run".
---@param argv string[]
---@param host { terminal: boolean? }
---@param prompt? boolean  it is behind "prompt"
---@return integer status
---@return function? leave  there is to be a prompt, then this
function M.main(argv, host, prompt)
  local opts, status = read_words(argv, prompt)
  if not opts then return status end
  opts.names, opts.warned, opts.shells = choose_names(opts), {}, {}
  opts.entries = {} -- by VM: what --json prints
  opts.traces = {} -- by VM: that of --trace-file
  opts.screens = {} -- of VMs whose BIOS prints on a screen: true, or what shows it
  local kvm = require "minikvm"
  if opts.view then -- before the jail
    local why
    opts.view_socket, why = require("minikvm.view").listen(opts.view)
    if not opts.view_socket then
      complain("--view", why)
      return 1
    end
  end
  if opts.jail or opts.policy then
    local entered, why = require("minikvm.cli.jail").enter(opts)
    if not entered then
      complain(why)
      if opts.json then require("minikvm.cli.run_json").print(opts, {}, 1) end
      return 1
    end
  end
  local vms, worst = prepare_all(kvm, opts, host)
  if worst == 0 and opts.prompt then
    offer(vms)
    return 0, function()
      for _, vm in ipairs(vms) do end_trace(vm, opts) end
      close_all(vms)
    end
  elseif worst == 0 then
    worst = run_all(kvm, vms, opts)
  elseif opts.json then
    require("minikvm.cli.run_json").print(opts, vms, worst)
  end
  close_all(vms)
  return worst
end

return M
