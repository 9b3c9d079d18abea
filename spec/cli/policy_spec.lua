-- Policy files (docs/security.md): what they grant, and what is said of wrong ones.

local lfs = require "lfs"
local process = require "support.process"
local program = require "support.program"
local support = require "support.guest"

local folder -- guest.bin, script.lua, link, sub/, out/

local function write(name, text)
  local path = folder .. "/" .. name
  local file <close> = assert(io.open(path, "wb"))
  file:write(text)
  return path
end

---Runs a command in which F stands for the folder, with this policy in F/policy.
local function with_policy(policy, command)
  write("policy", policy)
  local r = program.run((command:gsub("%f[%w]F%f[^%w]", folder)))
  r.err = r.err:gsub(folder:gsub("%p", "%%%0"), "F")
  return r
end

describe("a policy file", function()
  if process.without_jail(pending) then return end
  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    for _, name in ipairs{ "", "/sub", "/out" } do assert(lfs.mkdir(folder .. name)) end
    write("guest.bin", "\xb0\x41\xe6\xe9\xf4") -- mov al, 'A'; out 0xe9, al; hlt
    write("script.lua", "print(require('minikvm').vm():load 'kernel')")
    assert(lfs.link("guest.bin", folder .. "/link", true))
  end)
  teardown(function() os.execute("rm -r " .. folder) end)

  it("that is wrong is an error with line, key, reason, whatever it is", function()
    for line, why in pairs{
      ["reed x"] = 'unknown key "reed" (did you mean "read"?): there are change, disk,',
      ["read nothing"] = "read: F/nothing: No such file or directory",
      ["read link"] = "it is a symbolic link: name what it leads to, guest.bin",
      ["read sub/.."] = "it leads upwards", ["write ../x"] = "it leads upwards",
      ["read /"] = "it is the root", ["output /a.png"] = "it is the root",
      ["files x"] = "expected NAME=DIR or NAME=DIR:VERDICT",
      ["files a=sub:wr"] = "expected ro, cow",
      ["gdb nowhere:x"] = "expected a port", ["network wlan"] = "expected hub or tap NAME",
      ["network tap mk-no-such-tap-0"] = "", ["memory"] = "a value is missing",
      ["memory x"] = "expected a size", ["seconds 0"] = "expected seconds",
      ["level none"] = "expected best, strict, log", ["level best\nlevel best"] = "said already",
      ["\0"] = "not a text", [("#"):rep(2 << 20)] = "more than 1 MiB",
    } do
      local r = with_policy("image guest.bin\n" .. line, "P run --policy F/policy F/guest.bin")
      assert.equal("", line:find "tap" and "" or r.out, line)
      assert(r.err:find("minikvm: --policy: F/policy", 1, true) or line:find "tap", r.err)
      assert(r.err:find(why, 1, true), r.err)
    end
    local r = program.run(("P run --policy %s %s/guest.bin"):format(folder, folder))
    assert.matches("Is a directory", r.err)
  end)

  it("holds for embedders, with their own options", function()
    write("policy", "# all that is needed\n\nread sub\n")
    local script = write("embed.lua", ([[
      local kvm, F = require "minikvm", %q
      local jail = assert(kvm.jail{ policy = F .. "/policy", read = F .. "/script.lua" })
      print(io.open(F .. "/script.lua") ~= nil, io.open(F .. "/guest.bin"))
      print(kvm.jail{ policy = F .. "/policy" })
    ]]):format(folder))
    local r = program.run("P " .. script)
    if r.out:find "userdata" then return pending "this kernel has no Landlock" end
    assert.equal("", r.err)
    assert.matches("^true\tnil\t[^\n]*Permission denied", r.out)
    r = program.run(("P -e 'print(require(%q).jail{ policy = %q })'"):format("minikvm",
                                                                          folder .. "/nothing"))
    assert.matches("^nil\tkvm.jail: %S+/nothing: No such file", r.out)
  end)

  if support.without_kvm(pending) then return end

  it("lets a run have what it names, and nothing that it does not", function()
    local policy <const> = "image guest.bin\noutput out/a.png\ngdb 127.0.0.1:1\n"
    local r = with_policy(policy, "P run --policy F/policy --screenshot F/out/a.png F/guest.bin")
    assert.same({ "A", 0 }, { r.out, r.status }, r.err)
    assert.equal("\x89PNG", support.read_file(folder .. "/out/a.png"):sub(1, 4))
    for arguments, why in pairs{
      ["guests/real/hello.bin"] = "guests/real/hello.bin: F/policy does not let it be read",
      ["--disk-write F/guest.bin"] = "F/guest.bin: F/policy does not let it be written to",
      ["--screenshot F/a.png F/guest.bin"] = "F/policy does not let it be made",
      ["--input /etc/passwd F/guest.bin"] = "/etc/passwd: F/policy does not let it be read",
      ["--gdb 127.0.0.1:2 F/guest.bin"] = "gdb 127.0.0.1:2: F/policy does not let it be listened",
    } do
      r = with_policy(policy, "P run --policy F/policy " .. arguments)
      assert.same({ "", 1 }, { r.out, r.status })
      assert(r.err:find(why, 1, true), r.err)
    end
  end)

  it("grants a script images and files by name, and is the most that it gets", function()
    local policy <const> = "image kernel = guest.bin\nfiles data=sub:cow\nmemory 64M\nseconds 9\n"
    local r = with_policy(policy, "P --safe --policy F/policy F/script.lua")
    assert.same({ 0, "" }, { r.status, program.without_missing(r.err) })
    for arguments, why in pairs{
      ["--memory 1G"] = "--memory 1073741824: F/policy gives 67108864 at most",
      ["--seconds 10"] = "--seconds 10.0: F/policy gives 9.0 at most",
      ["--guest x=/etc/passwd"] = "/etc/passwd: F/policy does not let it be read",
      ["--files x=F:shared-rw"] = "F: F/policy does not let it be made",
    } do
      r = with_policy(policy, ("P --safe --policy F/policy %s F/script.lua"):format(arguments))
      assert.same({ "", 2 }, { r.out, r.status })
      assert(r.err:gsub("(%d+)%.0", "%1"):find((why:gsub("(%d+)%.0", "%1")), 1, true), r.err)
    end
    r = with_policy("gdb any\n", "P --safe --policy F/policy F/script.lua")
    assert.matches("gdb and taps are not there with %-%-safe", r.err)
  end)

  it("lets gdb's socket be made where one was left over", function()
    local socket = folder .. "/sub/gdb.sock"
    local left = write("left.lua", ([[
      local vm = require("minikvm").vm()
      assert(vm:gdb{ at = "unix:%s" })
      print "there"
      require("minikvm").sleep(60)
    ]]):format(socket))
    program.start("exec P " .. left):wait("there"):kill("KILL"):finish()
    assert.equal("socket", lfs.attributes(socket, "mode"))
    local p = program.start(("exec P run --jail --gdb unix:%s %s/guest.bin 2>&1"):format(socket,
                                                                                      folder))
    p:wait "gdb"
    p:kill "TERM"
    p:finish()
    assert(not p.out:find "there already", p.out)
  end)
end)
