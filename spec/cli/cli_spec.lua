-- The sub-commands: minikvm run (statuses, labels, input, the terminal), doctor, --help, --version.

local make = require "support.image"
local program = require "support.program"

local run, image = program.run, program.image

local function read_file(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

-- Machine code for real mode.
local HALT = "f4"
local SAY_HI = "b0 48 e6 e9  b0 69 e6 e9  b0 0a e6 e9  f4" -- "Hi\n" to port 0xe9, hlt
local SPIN = "eb fe"                                        -- jmp $
local READY = "b0 52 e6 e9  b0 0a e6 e9"                       -- "R\\n": now it runs
local CHATTER = "b0 78 e6 e9 eb fa"                         -- prints x for ever
local UNKNOWN_CALL = "ba 00 05 b0 77 ee f4"                 -- hypercall 0x77
local UNSERVED = "b0 01 e6 77 f4"                           -- out 0x77, al
local ECHO = "ba 00 05  b0 02 ee  ed  80 fc 01 74 f7  80 fc 02 74 04  e6 e9 eb ee  f4"
local function exit_with(code) return ("66 b8 %02x %02x 00 00 66 e7 f4")
  :format(code & 0xff, code >> 8) end                       -- out 0xf4, eax

---Runs `minikvm run` on images made of machine code; IMAGE1, IMAGE2 … stand for them.
local function run_images(command, codes, stdin)
  local paths = {}
  for i, code in ipairs(codes) do paths[i] = image(code) end
  local r = run((command:gsub("IMAGE(%d)", function(i) return paths[tonumber(i)] end)),
                { stdin = stdin })
  for _, path in ipairs(paths) do os.remove(path) end
  return r
end

describe("minikvm --help and --version", function()
  it("print to stdout, status 0", function()
    for _, option in ipairs{ "--help", "-h" } do
      local r = run("P " .. option)
      assert.equal(0, r.status)
      assert.match("^usage: minikvm ", r.out)
      assert.match("minikvm doctor", r.out)
      assert.equal("", r.err)
    end
    local r = run("P --version")
    assert.equal(0, r.status)
    assert.match("^minikvm %d+%.%d+%.%d+, Lua 5%.4\n$", r.out)
  end)

  it("explain run and doctor too", function()
    local r = run("P run --help")
    assert.equal(0, r.status)
    assert.match("%-%-deadline", r.out)
    assert.match("134", r.out)
    assert.equal(0, run("P doctor --help").status)
  end)
end)

-- POSIX XCU 1.4, "Consequences of Errors": a diagnostic, and a status above 0.
describe("output that cannot be written", function()
  local folder, full
  setup(function()
    folder = program.file ""
    os.remove(folder)
    full = folder .. "/full" -- a device like /dev/full, which takes nothing
    os.execute(("mkdir %s && mknod %s c 1 7 2>/dev/null || ln -s /dev/full %s"):format(folder, full,
                                                                                    full))
    os.execute(("echo \"it('passes', function() end)\" >%s/a_spec.lua"):format(folder))
  end)
  teardown(function() os.execute("rm -r " .. folder) end)

  for command, status in pairs{
    ["P --help"] = 1, ["P --version"] = 1, ["P -v"] = 1, ["P run --help"] = 1, ["P doctor"] = 1,
    ["P completion bash"] = 1, ["P test --tap SPEC"] = 1, ["P test SPEC"] = 1,
    ["P test --list SPEC"] = 1,
    ["P -e 'print(1)'"] = 1, ["P -e 'io.write(1) os.exit(0)'"] = 1,
    ["P -e 'print(1) os.exit(true, true)'"] = 1, ["echo 'print(1)' | P -"] = 1,
    ["echo 1 | P -i"] = 1, ["P -e 'print(1) os.exit(3)'"] = 3,
  } do
    it(("makes %q end with %d and a message"):format(command, status), function()
      local r = run((command:gsub("SPEC", folder .. "/a_spec.lua")) .. " >" .. full)
      assert.equal(status, r.status)
      assert.matches("minikvm: standard output: [^\n]+\n$", r.err)
    end)
  end

  it("fails where stdout is closed, and goes to no other descriptor", function() -- POSIX: EBADF
    local r = run "P run guests/real/hello.bin >&-"
    assert.equal(1, r.status)
    assert.matches("the guest's output cannot be written: Bad file descriptor\n$", r.err)
    assert.equal(1, run("P run guests/real/hello.bin <&- >&- 2>&-").status)
  end)

  it("of a trace ends with status 1 where stderr takes none", function()
    local r = run("P run --trace guests/real/hello.bin 2>" .. full)
    assert.same({ status = 1, out = "Hello, KVM!\n", err = "" }, r)
  end)

  it("is no matter when there is none", function()
    assert.same({ status = 0, out = "", err = "" }, run("P -e '' >" .. full))
    assert.same({ status = 0, out = "", err = "" }, run("P -e '' >&-"))
    assert.equal(1, run("P -e 'print(1)' >&-").status)
  end)

  it("for want of a reader ends quietly, by SIGPIPE or with status 1", function()
    local LINES <const> = "P -e 'for i = 1, 100000 do print(i) end'; echo $? >&2; } | head -1"
    assert.same({ out = "1\n", err = "141\n", status = 0 }, run("{ " .. LINES))
    assert.same({ out = "1\n", err = "1\n", status = 0 }, run("{ trap '' PIPE; " .. LINES))
  end)
end)

describe("minikvm run refuses with status 2", function()
  for command, message in pairs{
    ["run"] = "guest.bin is missing",
    ["run --memroy 1M x"] = "unknown option '--memroy' (did you mean '--memory'?)",
    ["run --deadlin 1 x"] = "unknown option '--deadlin' (did you mean '--deadline'?)",
    ["run --memory 4Q x"] = "got \"4Q\"",
    ["run --memory 0 x"] = "got \"0\"",
    ["run --memory 1M --memory 2M x"] = "--memory is given twice",
    ["run --mode rael x"] = "--mode: expected real or protected or paged or long or linux, "
      .. "got \"rael\" (did "
      .. "you mean \"real\"?)",
    ["completion tcsh"] = "no completions for \"tcsh\": there are bash, zsh and fish",
    ["completion"] = "bash|zsh|fish is missing",
    ["run --at -1 x"] = "--at: expected an address",
    ["run --at 0x10000000000000000 x"] = "--at: expected an address", -- 2^64
    ["run --deadline -1 x"] = "expected seconds",
    ["run --limit exit=3 x"] = "unknown limit \"exit\" (did you mean \"exits\"?)",
    ["run --limit exits=0 x"] = "expected a positive number, got \"0\"",
    ["run --limit exits=1 --limit exits=2 x"] = "--limit exits is given twice",
    ["run --limit exits x"] = "expected WHAT=N",
    ["run --unhandled fualt x"] = "(did you mean \"fault\"?)",
    ["run --name a --name b x"] = "2 names for 1 image",
    ["doctor -x"] = "unknown option '-x'",
    ["doctor now"] = "unexpected argument \"now\"",
  } do
    it(command, function()
      local r = run("P " .. command)
      assert.equal(2, r.status)
      assert.equal("", r.out)
      assert.truthy(r.err:find(message, 1, true), r.err)
      assert.match("\nusage: minikvm ", r.err)
    end)
  end
end)

describe("minikvm completion", function()
  ---What bash offers for the last of these words.
  local function complete(words)
    local r = run("P completion bash >/tmp/$$; . /tmp/$$; rm /tmp/$$; COMP_WORDS=(" .. words
      .. "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _minikvm; echo ${COMPREPLY[@]}",
      { shell = "bash" })
    assert.equal("", r.err)
    return r.out
  end

  it("gives bash the commands, their options and the words that options take", function()
    if not os.execute "command -v bash >/dev/null" then return pending "needs bash" end
    assert.equal("completion doctor linux new prompt run test\n", complete "minikvm ''")
    assert.equal("--mode --memory --module\n", complete "minikvm run --m")
    assert.equal("real protected paged long linux\n", complete "minikvm run --mode ''")
    assert.equal("--timings --timeout\n", complete "minikvm test --ti")
    assert.equal("--save-timings\n", complete "minikvm test --sa")
  end)

  it("is for zsh and fish, too", function()
    local zsh, fish = run "P completion zsh", run "P completion fish"
    assert.match("^#compdef minikvm\n", zsh.out)
    assert.truthy(zsh.out:find(": :(real protected paged long linux)", 1, true))
    assert.match('_describe "command" commands\n  _files\n', zsh.out)
    assert.truthy(fish.out:find("complete -c minikvm -n '__fish_minikvm_seen_command run' "
        .. "-l mode -s m "
                                .. "-xa 'real protected paged long linux'", 1, true), fish.out)
  end)
end)

describe("minikvm run", function()
  if require("support.guest").without_kvm(pending) then return end

  it("passes output on and is silent about a clean end", function()
    assert.same({ status = 0, out = "Hi\n", err = "" }, run_images("P run IMAGE1", { SAY_HI }))
  end)

  it("shows with --stats what each port cost", function()
    local r = run_images("P run --stats IMAGE1", { SAY_HI })
    assert.equal("Hi\n", r.out)
    assert.match("^where +accesses +no exit +in C +in Lua +ms +served by\n[^\n]*port 0x%x+ ", r.err)
    r = run_images("P run --stats IMAGE1 IMAGE2", { SAY_HI, SAY_HI })
    assert.equal(2, select(2, r.err:gsub("%[[^%]]+%]\nwhere", "")), r.err)
  end)

  for code, status in pairs{ [0] = 0, [3] = 3, [255] = 255, [256] = 255, [1000] = 255 } do
    it(("ends with %d when the guest exits with %d"):format(status, code), function()
      local r = run_images("P run --name g IMAGE1", { exit_with(code) })
      assert.equal(status, r.status)
      if code == 0 then
        assert.equal("", r.err)
      else
        assert.match("^minikvm: g: exit: [^\n]+\n$", r.err)
      end
    end)
  end

  for name, case in pairs{
    ["a deadline"] = { "--deadline 0.1", SPIN, 124, "deadline" },
    ["a limit of seconds"] = { "--limit seconds=0.1", SPIN, 124, "%l+" },
    ["a limit of exits"] = { "--no-coalesce --limit exits=50", CHATTER, 124, "limit" },
    ["a limit of output"] = { "--limit output=4K", CHATTER, 124, "limit" },
    ["an unknown hypercall"] = { "", UNKNOWN_CALL, 134, "fault" },
    ["an unserved port"] = { "--unhandled fault", UNSERVED, 134, "fault" },
    ["an unserved port, ignored"] = { "--unhandled ignore", UNSERVED, 0 },
  } do
    it(("ends with %d after %s"):format(case[3], name), function()
      local r = run_images(("P run --name g %s IMAGE1"):format(case[1]), { case[2] })
      assert.equal(case[3], r.status, r.err)
      if case[4] then
        assert.match("^minikvm: g: " .. case[4] .. ": [^\n]+\n", r.err) -- a report may follow
      else
        assert.equal("", r.err)
      end
    end)
  end

  it("could not start: status 1, the image named, nothing run", function()
    for _, path in ipairs{ "/no/such/image.bin", "/tmp" } do
      local r = run_images("P run IMAGE1 " .. path, { SAY_HI })
      assert.equal(1, r.status)
      assert.equal("", r.out)
      assert.truthy(r.err:find(path, 1, true), r.err)
      assert.is_nil(r.err:find("traceback", 1, true))
    end
  end)

  it("wrong for the engine: status 2, no traceback", function()
    local r = run_images("P run --memory 5 IMAGE1", { HALT })
    assert.equal(2, r.status)
    assert.match("option 'memory': 5 bytes is not a multiple of 4096", r.err)
    assert.is_nil(r.err:find("traceback", 1, true))
  end)

  -- mov al, 'A'; out 0xe9, al; hlt: the same in 16, 32 and 64 bits
  local A <const> = "\xb0\x41\xe6\xe9\xf4"

  it("takes the mode that an ELF or Multiboot file is for, or names it when told another",
     function()
    local kernel = make.multiboot(true)
    kernel.e.magic = "flat"
    for mode, m in pairs{ long = make.elf(64), protected = kernel } do
      local bytes = make.bytes(m)
      local path = program.file(bytes:sub(1, make.CODE) .. A .. bytes:sub(make.CODE + #A + 1))
      local r = run("P run " .. path)
      assert.same({ 0, "A", "" }, { r.status, r.out, r.err })
      r = run("P run --mode real " .. path)
      assert.equal(1, r.status)
      assert.matches(("--mode %s"):format(mode), r.err, 1, true)
      os.remove(path)
    end
  end)

  it("says of code that is not for real mode which mode it may be for, before it runs", function()
    -- each by what its code does: REX prefixes, RAM at 0x80000000, neither
    for guest, looks in pairs{
      ["long/hello"] = "64-bit code: try --mode long",
      ["prot/paging"] = "32-bit code: try --mode paged",
      ["prot/divide"] = "32-bit code: try --mode protected",
      ["long/echo"] = "32- or 64-bit code: try --mode protected, or --mode long",
    } do
      local r = run(("P run --limit output=100 --deadline 1 guests/%s.bin"):format(guest))
      assert.matches("^minikvm: %S+: it runs in real mode, .* no %-%-mode was given; ", r.err)
      assert.matches("it looks like " .. looks .. "\n", r.err, 1, true)
    end
    assert.is_nil(run("P run --mode real --limit output=100 guests/long/hello.bin").err
                    :find "no %-%-mode")
    for _, guest in ipairs{ "hello", "primes", "rtc", "hctest" } do -- 16-bit code
      assert.is_nil(run(("P run guests/real/%s.bin"):format(guest)).err:find "looks like")
    end
    local r = run_images("P run IMAGE1", { HALT .. (" 90"):rep(1 << 20) })
    assert.equal(1, r.status)
    assert.matches("there is room for 262144; mode= (minikvm run: --mode) was not given", r.err, 1,
                   true)
  end)

  it("says when the user ends what prints one byte for ever that no mode was given", function()
    local path = image "b0 ff e6 e9 eb fc" -- mov al, 0xff; out 0xe9, al; jmp to the out
    local p = program.start("exec P run --name g " .. path)
    local r = p:wait(("\xff"):rep(64)):kill("INT"):finish()
    os.remove(path)
    assert.equal(130, r.status)
    assert.matches("^minikvm: g: it ran in real mode, .* there are protected, paged and long\n$",
                   r.err)
    -- what was said before is off the screen
    r = run "P run --limit output=1000 guests/long/hello.bin"
    assert.matches("it ran in real mode, .*; it looks like 64%-bit code: try %-%-mode long\n$",
                   r.err)
    r = run_images("P run --deadline 0.2 IMAGE1", { SPIN })
    assert.matches("no --mode was given; there are protected, paged and long\n", r.err, 1, true)
  end)

  it("runs a boot sector, and says that it lacks a BIOS", function()
    local path = program.file(A:sub(1, 4) .. "\xeb\xfe" .. ("\0"):rep(504) .. "\x55\xaa")
    local r = run("P run --deadline 0.1 " .. path)
    assert.same({ 124, "A" }, { r.status, r.out })
    assert.matches("its boot sector was loaded, and there is no BIOS .*: try %-%-bios lua", r.err)
    os.remove(path)
  end)

  -- mov ah, 0; int 16h; mov ah, 0eh; int 10h; mov ax, 0301h; mov bx, 7c00h; mov cx, 2; int 13h
  -- (dx is the drive); mov al, 3; out 0f4h, al
  local DISK <const> = "\xb4\0\xcd\x16\xb4\x0e\xcd\x10\xb8\1\3\xbb\0\x7c\xb9\2\0\xcd\x13"
    .. "\xb0\3\xe6\xf4"
  local IMAGE <const> = DISK .. ("\0"):rep(510 - #DISK) .. "\x55\xaa" .. ("\0"):rep(1474560 - 512)

  it("boots a disk with a BIOS, types its input, and leaves the image as it was", function()
    local path = program.file(IMAGE)
    local r = run("P run --bios lua " .. path, { stdin = "x" })
    assert.same({ 3, "x" }, { r.status, r.out })
    assert.equal(IMAGE, read_file(path))
    r = run("P run --bios lua --disk-write " .. path, { stdin = "y" })
    assert.same({ 3, "y" }, { r.status, r.out })
    assert.equal(IMAGE:sub(1, 512), read_file(path):sub(513, 1024))
    r = run("P run --bios lua " .. path)
    assert.equal(0, r.status)
    assert.matches("the guest waits for a key, and its input has ended", r.err)
    os.remove(path)
  end)

  it("goes on with a snapshot of a machine with disks", function()
    local path, file = program.file(IMAGE), os.tmpname()
    local made = run(([[P -e 'local vm = assert(kvm.vm{ disk = "%s", bios = "lua", echo = false })
      vm:run{ deadline = 0.2 } assert(vm:snapshot():save "%s")']]):format(path, file))
    assert.same({ 0, "" }, { made.status, made.err })
    local r = run(("P run --bios lua --disk %s %s"):format(path, file), { stdin = "z" })
    assert.same({ 3, "z" }, { r.status, r.out })
    r = run("P run " .. file)
    assert.equal(1, r.status)
    assert.matches("of a machine with disks: %-%-disk and %-%-bios", r.err)
    os.remove(file)
    os.remove(path)
  end)

  it("says what is wrong with a disk, or its BIOS", function()
    for size, text in pairs{ [0] = "the disk image is empty",
                             [511] = "sectors of 512 bytes, this image has 511 bytes" } do
      local path = program.file(IMAGE:sub(1, size))
      local r = run("P run --bios lua " .. path)
      assert.equal(1, r.status)
      assert.matches(text, r.err, 1, true)
      os.remove(path)
    end
    local path = program.file(IMAGE)
    local r = run("P run --bios " .. path .. " " .. path)
    assert.equal(1, r.status)
    assert.matches("no BIOS: .*package seabios.*%-%-bios lua", r.err)
    r = run("P run --bios lua --disk /nowhere " .. path)
    assert.equal(1, r.status)
    assert.matches("/nowhere: No such file or directory", r.err)
    r = run("P run --bios lua --mode long " .. path)
    assert.equal(2, r.status)
    assert.matches("a BIOS starts in mode \"real\"", r.err)
    assert.is_falsy(r.err:find "traceback")
    os.remove(path)
  end)

  it("feeds stdin to the guest, to its end", function()
    local r = run_images("P run IMAGE1", { ECHO }, "abc\0\255z")
    assert.same({ status = 0, out = "abc\0\255z", err = "" }, r)
  end)

  it("feeds a file with --input", function()
    local path = program.file "from a file"
    local r = run_images("P run --input " .. path .. " IMAGE1", { ECHO }, "from stdin")
    os.remove(path)
    assert.same({ status = 0, out = "from a file", err = "" }, r)
  end)

  it("says when the input file is missing", function()
    local r = run_images("P run --input /no/such/file IMAGE1", { ECHO })
    assert.equal(1, r.status)
    assert.match("/no/such/file: No such file", r.err)
  end)

  it("labels the output of several, whose input is at its end", function()
    local r = run_images("P run --name a --name b --name c IMAGE1 IMAGE2 IMAGE3",
                         { SAY_HI, ECHO, SAY_HI }, "unread")
    local lines = {}
    for line in r.out:gmatch "[^\n]+" do lines[#lines + 1] = line end
    table.sort(lines)
    assert.same({ "[a] Hi", "[c] Hi" }, lines)
    assert.equal(0, r.status)
    assert.equal("", r.err)
  end)

  it("tells several runs of one image apart", function()
    local path = image(SAY_HI)
    os.rename(path, path .. ".bin")
    local r = run(("P run %s.bin %s.bin"):format(path, path))
    os.remove(path .. ".bin")
    local name = path:match "[^/]+$"
    assert.truthy(r.out:find("[" .. name .. "] Hi\n", 1, true), r.out)
    assert.truthy(r.out:find("[" .. name .. "-2] Hi\n", 1, true), r.out)
  end)

  it("ends with the worst of several, and says which", function()
    local r = run_images("P run --deadline 0.2 --name a --name b --name c IMAGE1 IMAGE2 IMAGE3",
                         { HALT, SPIN, exit_with(3) })
    assert.equal(124, r.status)
    assert.match("minikvm: b: deadline: ", r.err)
    assert.match("minikvm: c: exit: ", r.err)
    assert.is_nil(r.err:find("minikvm: a:", 1, true))
  end)

  it("traces exits to stderr", function()
    local r = run_images("P run --name g --trace IMAGE1", { SAY_HI })
    assert.equal("Hi\n", r.out)
    assert.match("^%[g%] [^\n]+\n%[g%] ", r.err)
  end)

  for n, words in ipairs{ "IMAGE", "IMAGE IMAGE" } do
    it(("ends %d at SIGINT without a traceback"):format(n), function()
      local path = image(READY .. SPIN)
      local p = program.start("exec P run " .. words:gsub("IMAGE", path))
      for _ = 1, n do p:wait "R\n" end
      local r = p:kill("INT"):finish()
      os.remove(path)
      assert.same({ 130, "" }, { r.status, r.err })
    end)
  end
end)

describe("minikvm run on a terminal", function()
  if require("support.guest").without_kvm(pending) then return end
  if not program.has_terminal then return pending "needs util-linux's script" end

  local MODES = [[stty -a | tr " " "\n" | grep -x -e icanon -e echo -e isig | tr "\n" ,]]

  ---What a terminal shows on which a guest runs, which prints "R" when it does, then its status in
  ---brackets, and the terminal's modes.
  ---@param use fun(t: running, pid: integer)  what the user does
  local function on_terminal(code, use)
    local path, pidfile = image(READY .. code), program.file ""
    local t = program.start(("sh -c 'echo $$ >%s; exec P run --name g %s'; echo \"[$?]\"; %s")
      :format(pidfile, path, MODES), { terminal = true })
    t:wait "R\n" -- the terminal is raw by now
    if use then use(t, tonumber(program.run("cat " .. pidfile).out)) end
    local out = t:finish().out
    os.remove(path)
    os.remove(pidfile)
    return out
  end

  it("gives the guest its bytes raw, leaves by Ctrl-A x, restores", function()
    local out = on_terminal(ECHO, function(t) t:type("ab\3c"):wait("ab\3c"):type "\1x" end)
    assert.match("minikvm: Ctrl%-A x leaves\n", out)
    assert.match("%[0%]", out)
    assert.match("isig,icanon,echo,$", out)
  end)

  it("restores after a guest that ends by itself", function()
    local out = on_terminal(SAY_HI)
    assert.match("Hi\n%[0%]", out)
    assert.match("isig,icanon,echo,$", out)
  end)

  for _, signal in ipairs{ "TERM", "HUP", "SEGV", "INT" } do
    it("restores after SIG" .. signal, function()
      local out = on_terminal(SPIN, function(t, pid)
        os.execute(("kill -%s %d"):format(signal, pid))
        t:wait "]"
      end)
      assert.match("isig,icanon,echo,$", out)
      assert.match("%[[1-9]%d*%]", out) -- 128 + n; a sanitizer makes SEGV a 1
    end)
  end
end)

describe("minikvm doctor", function()
  local doctor = require "minikvm.cli.doctor"

  local GROUPS = "root:x:0:\nkvm:x:104:alice\n"
  local WORKS = { ok = true, api = 12, host = "vmx", paging32 = "native", int_n = "native",
                  iret = "native", cpuid = "shaped", caps = { coalesced_pio = true } }

  ---A host of these files; `denied` ones exist but cannot be read.
  local function host(files, probe, env, owner)
    return {
      read = function(path) return files[path] or nil end,
      exists = function(path) return files[path] ~= nil end,
      owner = function() if owner then return table.unpack(owner) end end,
      getenv = function(name) return (env or {})[name] end,
      probe = function() return probe end,
    }
  end

  local function diagnose(...)
    local text = {}
    local status = doctor.run(host(...), function(part) text[#text + 1] = part end)
    return table.concat(text), status
  end

  local function intel(more)
    local files = { ["/proc/cpuinfo"] = "flags\t\t: fpu vmx sse\n", ["/etc/group"] = GROUPS,
                    ["/sys/module/kvm"] = "", ["/sys/module/kvm_intel"] = "", ["/dev/kvm"] = "",
                    ["/proc/self/status"] = "Uid:\t1000\t1000\nGroups:\t27 1000 \n" }
    for path, text in pairs(more or {}) do files[path] = text end
    return files
  end

  local function denied(code)
    return { ok = false, why = "/dev/kvm: no", code = code, caps = {} }
  end

  it("is content with a host where all is well", function()
    local text, status = diagnose(intel(), WORKS)
    assert.equal(0, status)
    assert.is_nil(text:find("FAIL", 1, true))
    assert.is_nil(text:find("warn", 1, true))
    assert.match("Intel VT%-x", text)
    assert.match("can run on this host", text)
  end)

  it("names the group to join", function()
    local text, status = diagnose(intel(), denied "EACCES", { USER = "bob" },
                                  { 0, 104, "rw-rw----" })
    assert.equal(1, status)
    assert.match("FAIL  permission .-\n *%-> sudo usermod %-aG kvm bob, then log in again", text)
  end)

  it("sees a group that was joined after logging in", function()
    local text = diagnose(intel(), denied "EACCES", { USER = "alice" }, { 0, 104, "rw-rw----" })
    assert.match("alice is in group kvm already: log in again", text)
  end)

  it("sees a device whose group is of no use", function()
    local text = diagnose(intel(), denied "EACCES", { USER = "bob" }, { 0, 0, "rw-------" })
    assert.match("FAIL  permission .-sudo chgrp kvm /dev/kvm", text)
  end)

  it("sees that something else forbids it", function()
    local files = intel{ ["/proc/self/status"] = "Uid:\t0\t0\n" }
    local text = diagnose(files, denied "EPERM", {}, { 0, 0, "rw-------" })
    assert.match("device policy", text)
  end)

  it("names the module to load", function()
    local files = intel{ ["/dev/kvm"] = false, ["/sys/module/kvm_intel"] = false }
    files["/dev/kvm"], files["/sys/module/kvm_intel"], files["/sys/module/kvm"] = nil, nil, nil
    local text, status = diagnose(files, denied "ENOENT")
    assert.equal(1, status)
    assert.match("FAIL  kernel module  no kvm module is loaded\n *%-> sudo modprobe kvm_intel\n",
                 text)
    assert.match("FAIL  /dev/kvm", text)
    files["/proc/cpuinfo"] = "flags : svm\n"
    assert.match("sudo modprobe kvm_amd\n", (diagnose(files, denied "ENOENT")))
  end)

  it("knows containers", function()
    local files = intel{ ["/.dockerenv"] = "" }
    files["/dev/kvm"] = nil
    local text = diagnose(files, denied "ENOENT")
    assert.match("warn  container      Docker\n *%-> start the container with %-%-device /dev/kvm",
                 text)
    files["/.dockerenv"], files["/proc/1/cgroup"] = nil, "0::/kubepods/pod1\n"
    assert.match("container      Kubernetes", (diagnose(files, denied "ENOENT")))
  end)

  it("tells firmware from nested virtualization", function()
    local files = { ["/proc/cpuinfo"] = "flags : fpu sse\n" }
    assert.match("FAIL  processor .-firmware", (diagnose(files, denied "ENOENT")))
    files["/proc/cpuinfo"] = "flags : fpu hypervisor\n"
    assert.match("FAIL  processor .-nested", (diagnose(files, denied "ENOENT")))
  end)

  it("explains a paravirtual host", function()
    local probe = { ok = true, api = 12, host = "pvm", paging32 = "assist", int_n = "assist",
                    iret = "assist", cpuid = "host",
                    caps = { coalesced_pio = true, sync_regs = false } }
    local text, status = diagnose({ ["/sys/module/kvm_pvm"] = "" }, probe)
    assert.equal(0, status)
    assert.match("ok    processor      no vmx or svm flag; this KVM does without", text)
    assert.match("kind of host   paravirtual", text)
    assert.match("32%-bit paging  assisted", text)
    assert.match("IRET           assisted", text)
    assert.match("warn  capabilities   missing: sync_regs", text)
  end)

  it("does not ask for vmx where kvm_pvm is loaded but may not be used", function()
    local probe = { ok = false, why = "no", code = "EACCES", api = 0, caps = { sync_regs = false } }
    local text = diagnose({ ["/sys/module/kvm_pvm"] = "", ["/dev/kvm"] = "" }, probe)
    assert.match("ok    processor", text)
    assert.match("warn  KVM's API      cannot be asked\n", text)
    assert.match("warn  capabilities   cannot be asked\n", text)
  end)

  it("refuses another API", function()
    assert.match("FAIL  KVM's API      version 11 instead of 12",
                 (diagnose(intel(), { ok = false, why = "old", api = 11, code = "ENOTSUP" })))
  end)

  it("agrees with the program on this host", function()
    local r = run("P doctor")
    assert.equal(require("minikvm").probe().ok and 0 or 1, r.status)
    assert.match("kind of host", r.out)
    assert.equal("", r.err)
  end)
end)
