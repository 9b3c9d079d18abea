-- The jail (docs/security.md): what minikvm run --jail keeps, what a script gets after kvm.jail,
-- and what both say of bad policies. spec/c/test_jail.c has what a thread can do.
--
-- The right answers are those of Landlock (EACCES, Linux Documentation/userspace-api/landlock.rst)
-- and of the table in src/jail/calls.c (EPERM).

local lfs = require "lfs"
local escapes = require "support.escapes"
local support = require "support.guest"
local program = require "support.program"
local process = require "support.process"

local folder -- with inside/ (granted) and outside/, whose files nobody may read

local function write(path, text)
  assert(io.open(path, "wb")):write(text):close()
  return path
end

local function make_folder() folder = escapes.make_folder(lfs) end

---A script that enters the jail first, in the program or in another interpreter.
local function jailed(code, opts)
  local head = ([[
    local kvm, F = require "minikvm", %q
    local jail = assert(kvm.jail{ %s })
  ]]):format(folder, opts or "change = F .. '/inside'")
  local path = write(folder .. "/script.lua", head .. code)
  return program.run("P " .. path)
end

---Whether this kernel has Landlock, as the jail itself reports.
local function has_files_wall()
  local r = jailed "for _, wall in ipairs(jail.walls) do print(wall) end"
  assert.equal("", r.err)
  return r.out:find "files" ~= nil
end

local function try_all()
  return jailed("local core = require 'minikvm.core'\n" .. escapes.code(),
    "read = { '/usr/share/lua' }, change = F .. '/inside'")
end

describe("a jail", function()
  setup(make_folder)
  teardown(function() os.execute("rm -r " .. folder) end)

  it("keeps a script from what was not named, whichever way it tries", function()
    if not has_files_wall() then return pending "this kernel has no Landlock" end
    local r = try_all()
    assert.equal("", r.err)
    escapes.check(r.out)
    assert.equal("secret", support.read_file(folder .. "/outside/secret"))
  end)

  it("leaves what was named", function()
    local r = jailed [[
      print(io.open(F .. "/inside/given"):read "a")
      assert(io.open(F .. "/inside/new", "w")):write("new"):close()
      print(os.rename(F .. "/inside/new", F .. "/inside/newer"), os.remove(F .. "/inside/newer"))
    ]]
    assert.equal("", r.err)
    assert.equal("given\ntrue\ttrue\n", r.out)
  end)

  it("is entered once, before other threads, outside handlers", function()
    local r = jailed "print(kvm.jail{})"
    assert.matches("^nil\tkvm.jail: this process is in a jail already.*EALREADY\n$", r.out)
    local path = write(folder .. "/script.lua", [[
      local kvm = require "minikvm"
      local worker = kvm.worker(function(me) me:receive() end)
      print(kvm.jail{})
      worker:send(1)
    ]])
    r = program.run("P " .. path)
    assert.matches("^nil\tkvm.jail: the process has other threads.*EBUSY\n$", r.out)
  end)

  it("refuses policies that say something else than they seem to", function()
    for code, message in pairs{
      ["read = F .. '/nothing'"] = "/nothing: No such file or directory",
      ["read = F .. '/inside/link'"] = "it is a symbolic link: name what it leads to, "
        .. "../outside/secret",
      ["write = F .. '/inside/..'"] = "it leads upwards",
      ["read = '/'"] = "it is the root",
      ["read = { 1 }"] = "expected paths, got a number as number 1",
      ["level = 'none'"] = 'expected "best" or "strict"',
      ["reed = {}"] = "did you mean 'read'",
    } do
      local r = jailed("print 'entered'", code)
      assert.equal(1, r.status)
      assert.equal("", r.out)
      assert(r.err:find(message, 1, true), r.err)
    end
  end)

  it("can only tell what would be refused, to whom, once each", function()
    local r = jailed([[
      for _ = 1, 2 do io.open "/etc/passwd" end
      os.remove(F .. "/nothing")
      print(os.execute "exit 7")
      local vm = kvm.vm()
      if not vm then os.exit(0) end
      vm:load{ bytes = "\xe6\x80\xf4" } -- out 0x80, al; hlt
      vm.ports:on(0x80, { write = function() io.open "/etc/group" end })
      print((vm:run()))
    ]], "level = 'log', read = F .. '/inside'")
    if r.err:find "needs seccomp" then return pending "this kernel has no seccomp" end
    assert.matches("^nil\texit\t7\n", r.out)
    local function tells(text)
      assert.equal(1, select(2, r.err:gsub("minikvm: jail: " .. text .. "\n", "")), r.err)
    end
    tells "the script's thread would be refused to read /etc/passwd"
    tells "the script's thread would be refused execve%([^\n]*%)"
    if r.out:find "halt" then tells "a vCPU's thread would be refused to read /etc/group" end
  end)

  it("serves embedders: a stock interpreter", function()
    if process.sanitized() then return pending "a stock lua cannot load the sanitizer" end
    if not has_files_wall() then return pending "this kernel has no Landlock" end
    local path = write(folder .. "/script.lua", ([[
      local kvm = require "minikvm"
      assert(kvm.jail{ read = %q })
      print(io.open "/etc/passwd")
    ]]):format(folder .. "/inside"))
    local r = program.run("P " .. path, { program = program.lua })
    assert.equal("nil\t/etc/passwd: Permission denied\t13\n", r.out)
  end)
end)

describe("minikvm run --jail", function()
  if support.without_kvm(pending) then return end
  if process.without_jail(pending) then return end
  setup(make_folder)
  teardown(function() os.execute("rm -r " .. folder) end)

  ---What a run says on both streams in a jail, and its status.
  local function run(arguments, stdin)
    return program.run("P run --jail --deadline 20 " .. arguments, { stdin = stdin })
  end

  it("runs guests as without", function()
    local r = run "guests/real/hello.bin guests/real/exit42.bin"
    assert.equal("[hello] Hello, KVM!\n", r.out)
    assert.equal(42, r.status)
    assert.equal("abc", run("guests/real/echo.bin", "abc").out)
    assert.equal("20 ticks\n", run("--mode paged --irqchip pic guests/prot/ticks.bin").out)
  end)

  it("has the input and writes the files that are named", function()
    local picture, trace = folder .. "/inside/a.png", folder .. "/inside/a.txt"
    local input = write(folder .. "/outside/keys", "xyz")
    local r = run(("--input %s --screenshot %s --trace-file %s guests/real/echo.bin"):format(
      input, picture, trace))
    assert.equal("xyz", r.out)
    assert.equal("\x89PNG", support.read_file(picture):sub(1, 4))
    assert.matches("port=0x500", support.read_file(trace))
  end)

  it("disassembles for a trace on the thread of a vCPU", function()
    local trace = folder .. "/inside/calls.txt"
    local r = run(("--trace-calls --trace-file %s guests/real/multiplication.bin"):format(trace))
    assert.equal("", r.err)
    assert.equal(0, r.status)
  end)

  it("prints into a pipe without waiting for its reader, as without", function()
    local r = program.run "P run --jail guests/real/hello.bin | cat"
    assert.equal("Hello, KVM!\n", r.out)
    assert.equal("", r.err)
  end)

  it("says what is wrong with an image as without", function()
    local r = run(folder .. "/nothing.bin")
    assert.equal(1, r.status)
    assert.matches("nothing.bin: No such file or directory", r.err)
  end)

  ---How many filters each thread of a process has, by Linux's proc(5): "1 2 2", sorted. Those that
  ---KVM itself keeps in it do not count.
  local function filters_of(pid)
    local list = {}
    for task in lfs.dir(("/proc/%d/task"):format(pid)) do
      local file = task:find "^%d" and io.open(("/proc/%d/task/%s/status"):format(pid, task))
      local text = file and file:read "a" or ""
      if file then file:close() end
      assert(text == "" or text:find "NoNewPrivs:\t1\n" and text:find "CapEff:\t0+\n")
      if not text:find "^Name:\tkvm%-" then
        list[#list + 1] = text:match "Seccomp_filters:\t(%d+)"
      end
    end
    table.sort(list)
    return table.concat(list, " ")
  end

  ---The threads of a command while its guest spins, having printed a byte.
  local function threads_of(command)
    local p = program.start("exec " .. command):wait "A"
    local file <close> = assert(io.open(p.pid_file))
    local pid = file:read "n"
    local children = command:find "%-%-safe" -- whose script has a process of its own
      and assert(io.open(("/proc/%d/task/%d/children"):format(pid, pid)))
    local filters = filters_of(children and children:read "n" or pid)
    if children then children:close() end
    p:kill "KILL"
    p:finish()
    return filters
  end

  it("has the threads of vCPUs and I/O behind filters of their own", function()
    local r = program.run "grep Seccomp_filters /proc/self/status"
    if r.status ~= 0 then return pending "this kernel does not tell of filters" end
    local image = write(folder .. "/inside/spin.bin", "\xb0A\xe6\xe9\xeb\xfe") -- ... jmp $
    assert.equal("1 2 2", threads_of("P run --jail --no-coalesce " .. image))
    local script = write(folder .. "/inside/spin.lua", [[
      local kvm = require "minikvm"
      local vm = kvm.vm{ coalesce = false }
      vm:load "spin"
      vm:run()
    ]])
    assert.equal("1 2 2", threads_of(("env TMPDIR=%s/inside P --safe --guest spin=%s %s"):format(
      folder, image, script)))
  end)

  it("gives guests of --safe the files that were granted, and leaves nothing behind", function()
    local tmp, data = folder .. "/tmp", folder .. "/data"
    assert(lfs.mkdir(tmp) and lfs.mkdir(data))
    local script = write(folder .. "/files.lua", [[
      local kvm = require "minikvm"
      local rules = { { "shared.txt", "shared-rw" }, { "**", "cow" } }
      local vm = kvm.vm{ mode = "long", files = kvm.files{ root = "data", rules = rules } }
      assert(vm:load "writer")
      print(vm:run())
    ]])
    write(data .. "/shared.txt", "Shared by all VMs.\n")
    local r = program.run(("env TMPDIR=%s P --safe --guest writer=guests/long/cow_writer.bin "
      .. "--files data=%s:shared-rw %s"):format(tmp, data, script))
    assert.equal(0, r.status, r.err)
    assert.matches("exit\texit: the guest wrote 0", r.out)
    assert.matches("And more.", support.read_file(data .. "/shared.txt"))
    write(script, [[
      local t, s = {}, ("x"):rep(1 << 20) -- equal but for the last byte
      for i = 1, 8 do t[i] = s .. i end
      for i = 9, 1 << 16 do t[i] = t[i % 8 + 1] end
      table.sort(t)
    ]])
    r = program.run(("env TMPDIR=%s P --safe --seconds 1 %s"):format(tmp, script))
    assert.matches("files.lua:4: the script's time is up: 1 s", r.err)
    assert(lfs.rmdir(tmp), "something was left in TMPDIR")
  end)

  it("lets guests write to files that one VM at a time has", function()
    -- opens "x" to write (as below), and prints '0' and the descriptor
    local script = write(folder .. "/inside/rw.lua", [[
      local kvm = require "minikvm"
      assert(kvm.jail{ change = arg[1], files = true })
      local vm = kvm.vm{ files = kvm.files{ root = arg[1], rules = { { "x", "rw" } } } }
      vm:load{ bytes = "\xba\x78\x02\xbe\x11\x00\xb9\x04\x00\xf3\x6e\xec\x04\x30\xe6\xe9\xf4"
        .. "\x01\x02\x01x" }
      vm:run()
    ]])
    local root = folder .. "/rw"
    assert(lfs.mkdir(root))
    write(root .. "/x", "")
    assert.equal("0", program.run(("P %s %s"):format(script, root)).out)
  end)

  it("lets guests make files of their own where that was asked for", function()
    -- mov dx, 0x278; mov si, 0x11; mov cx, 4; rep outsb: opens "x" to be made; in al, dx: its
    -- descriptor, or an error's number; add al, '0'; out 0xe9, al; hlt
    local image = write(folder .. "/inside/make.bin", "\xba\x78\x02\xbe\x11\x00\xb9\x04\x00\xf3\x6e"
      .. "\xec\x04\x30\xe6\xe9\xf4\x01\x06\x01x")
    assert.equal("0", run(image .. " --jail-files").out)
    assert.equal("#", run(image).out) -- -13, EACCES
  end)

  it("is not entered in a handler: there are threads then", function()
    local path = write(folder .. "/inside/handler.lua", [[
      local kvm = require "minikvm"
      local vm = kvm.vm()
      vm:load{ bytes = "\xe6\x80\xf4" } -- out 0x80, al; hlt
      vm.ports:on(0x80, { write = function() print(kvm.jail{}) end })
      print((vm:run()))
    ]])
    assert.matches("^nil\tkvm.jail: the process has other threads.-\tEBUSY\nhalt\n$",
      program.run("P " .. path).out)
  end)

  it("keeps handlers, which run on vCPUs' threads, from more than the script", function()
    local r = jailed([[
      local vm = kvm.vm()
      vm:load{ bytes = "\xe6\x80\xf4" } -- out 0x80, al; hlt
      vm.ports:on(0x80, { write = function()
        print(io.open(F .. "/inside/given") ~= nil, io.open(F .. "/outside/secret"))
        print(kvm.vm())
        print(#kvm.disassemble("\x90", 16))
      end })
      print((vm:run()))
      print(kvm.vm() ~= nil)
    ]])
    assert.equal("", r.err)
    assert.matches("^true\tnil\t%S+/outside/secret: %a+ %a+\t1?3?\n"
      .. "nil\t[^\n]*Operation not permitted\tEPERM\n1\nhalt\ntrue\n$", r.out)
  end)

  it("is not for a prompt", function()
    local r = program.run "P run --jail --prompt guests/real/hello.bin"
    assert.equal(2, r.status)
    assert.matches("%-%-jail is for images that run", r.err)
  end)
end)
