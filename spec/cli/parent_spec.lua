-- The two processes of --safe (src/lua/parent.h): however one of them ends, the other does, and
-- nothing is left behind. What happens is waited for, by proc(5).

local lfs = require "lfs"
local process = require "support.process"
local program = require "support.program"

local folder, script

---Starts a script under --safe that has printed "ready"; its process numbers.
---@return table running, integer parent, integer child
local function start(code, arguments, opts)
  local file <close> = assert(io.open(script, "w"))
  file:write("print 'ready' ", code)
  file:close()
  local p = program.start(("exec env TMPDIR=%s P --safe %s %s"):format(folder, arguments or "",
                                                                      script), opts):wait "ready"
  local numbers <close> = assert(io.open(p.pid_file))
  local parent = numbers:read "n"
  local list <close> = assert(io.open(("/proc/%d/task/%d/children"):format(parent, parent)))
  local child = parent
  for number in list:read("a"):gmatch "%d+" do child = math.max(child, math.tointeger(number)) end
  return p, parent, child
end

---A process's state, proc(5): "R", "S", "T" …; nil when there is none.
local function state_of(pid)
  local file <close> = io.open(("/proc/%d/stat"):format(pid))
  return file and (file:read "a" or ""):match "^%d+ %(.*%) (%a)" or nil
end

local function await_end(pid)
  process.await(function()
    local state = state_of(pid)
    return not state or state == "Z"
  end)
end

local function is_empty(path)
  for name in lfs.dir(path) do
    if name ~= "." and name ~= ".." then return false end
  end
  return true
end

local FOR_EVER <const> = "while true do require('minikvm').sleep(1000) end"

describe("the processes of --safe", function()
  if process.without_jail(pending) then return end
  setup(function()
    folder, script = os.tmpname(), os.tmpname()
    os.remove(folder)
    assert(lfs.mkdir(folder))
  end)
  teardown(function()
    os.execute("rm -r " .. folder)
    os.remove(script)
  end)

  it("are two, and the script's has no terminal and a session of its own", function()
    local p, parent, child = start(FOR_EVER)
    local function field(pid, number)
      local file <close> = assert(io.open(("/proc/%d/stat"):format(pid)))
      local i = 2
      for word in file:read("a"):match("%) (.*)"):gmatch "%S+" do
        i = i + 1
        if i == number then return tonumber(word) end
      end
    end
    assert.equal(parent, field(child, 4)) -- ppid
    assert.equal(child, field(child, 6)) -- session
    assert.equal(0, field(child, 7)) -- tty_nr
    p:kill "TERM"
    p:finish()
  end)

  for _, signal in ipairs{ "TERM", "HUP", "QUIT", "KILL" } do
    it(("end both by SIG%s, and leave nothing"):format(signal), function()
      local p, _, child = start(FOR_EVER, "--disk 1M")
      assert.is_false(is_empty(folder)) -- a folder for private files
      p:kill(signal)
      local numbers <const> = { HUP = 1, QUIT = 3, KILL = 9, TERM = 15 }
      assert.equal(128 + numbers[signal], p:finish().status)
      await_end(child)
      process.await(function() return is_empty(folder) end)
    end)
  end

  it("hand Ctrl-C on, which ends the script", function()
    local p = start(FOR_EVER, "--disk 1M")
    p:kill "INT"
    local r = p:finish()
    assert.same({ 130, "" }, { r.status, program.without_missing(r.err) })
    assert(is_empty(folder))
  end)

  it("get Ctrl-C from a terminal", function()
    if not program.has_terminal then return pending "there is no script(1)" end
    local p, _, child = start(FOR_EVER, nil, { terminal = true })
    p:type "\3"
    assert.equal(130, p:finish().status)
    await_end(child)
  end)

  it("end by a second Ctrl-C where the script keeps the first", function()
    local p, _, child = start("print(pcall(function() print 'in' while true do end end)) "
      .. "while true do end")
    p:wait("in"):kill("INT"):wait "interrupted!":kill "INT"
    assert.equal(130, p:finish().status)
    await_end(child)
  end)

  it("stop and go on together", function()
    local p, parent, child = start(FOR_EVER)
    p:kill "TSTP"
    process.await(function() return state_of(parent) == "T" and state_of(child) == "T" end)
    p:kill "CONT"
    process.await(function() return state_of(parent) == "S" and state_of(child) == "S" end)
    p:kill "TERM"
    p:finish()
    await_end(child)
  end)

  it("tell of a script's process that a signal ends", function()
    local p, _, child = start(FOR_EVER, "--disk 1M")
    assert(os.execute("kill -ABRT " .. child))
    local r = p:finish()
    assert.equal(134, r.status)
    assert.matches("minikvm: the script's process was ended by SIGABRT\n", r.err)
    assert(is_empty(folder))
  end)

  it("end in time though nobody reads what the script prints", function()
    local file = assert(io.open(script, "w"))
    file:write "while true do print(('x'):rep(1000)) end"
    file:close()
    local status, fifo = os.tmpname(), os.tmpname()
    os.remove(fifo)
    assert(os.execute("mkfifo " .. fifo))
    local shell = assert(io.popen(("{ %s --safe --seconds 0.1 %s 2>&1; echo ended >%s; } | read -r "
      .. "x <%s"):format(program.minikvm, script, status, fifo), "w"))
    process.await(function() return lfs.attributes(status, "size") > 0 end)
    assert(io.open(fifo, "w")):write("\n"):close()
    shell:close()
    os.remove(fifo)
    os.remove(status)
  end)

  it("give the script nothing of the caller's: stdin, LUA_INIT, LUA_PATH", function()
    local file = assert(io.open(script, "w"))
    file:write [[
      local kvm = require "minikvm"
      print(pcall(require, "evil"))
      local vm = kvm.vm()
      if not vm then return end
      vm:load "echo"
      vm.console:attach()
      print((vm:run{ deadline = 20 }))
    ]]
    file:close()
    local evil = folder .. "/evil.lua"
    assert(io.open(evil, "w")):write("print 'evil'"):close()
    local r = program.run(([[LUA_INIT="print 'init'" LUA_PATH="%s/?.lua" P --safe ]]
      .. "--guest echo=guests/real/echo.bin %s"):format(folder, script), { stdin = "secret" })
    os.remove(evil)
    assert.equal(0, r.status, r.err)
    assert(not r.out:find "init" and not r.out:find "evil'" and not r.out:find "secret", r.out)
    assert.matches("^false\t", r.out)
  end)
end)
