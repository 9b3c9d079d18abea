-- File policies: who may see which file, what becomes of it, and that nothing leads out.

local lfs = require "lfs"
local kvm = require "minikvm"
local support = require "support.guest"
local process = require "support.process"
local files = require "support.files"

local READ <const>, WRITE <const>, CREATE <const> = files.READ, files.WRITE, files.CREATE
local TRUNC <const>, APPEND <const> = files.TRUNC, files.APPEND
local IS_ROOT <const> = process.run "print(io.open('/proc/self/status'):read 'a')"
  :find "\nUid:%s+0%s" ~= nil

local function shell(format, ...)
  assert(os.execute(format:format(...)))
end

describe("kvm.files", function()
  it("names what is wrong with its options", function()
    local function wrong(pattern, opts)
      assert.error_matches(function() kvm.files(opts) end, pattern)
    end
    wrong("did you mean 'rules'", { rule = {} })
    wrong("did you mean 'max_open'", { maxopen = 1 })
    wrong("expected a table", "data")
    wrong("'root': expected a directory", { root = 1 })
    wrong("'root': expected a directory", { root = "" })
    wrong("'root': expected a directory", { root = "a\0b" })
    wrong("'private': expected a directory", { private = true })
    wrong("list of { pattern, verdict }", { rules = "in" })
    wrong("list of { pattern, verdict }", { rules = { a = "ro" } })
    wrong("rule 1 is not", { rules = { "ro" } })
    wrong("rule 2 is not", { root = ".", rules = { { "a", "ro" }, { "a" } } })
    wrong("rule 1 is not", { root = ".", rules = { { "a", "ro", "x" } } })
    wrong("rule 1 has a key 'if'", { root = ".", rules = { { "a", "ro", ["if"] = 1 } } })
    wrong('rule 1: verdict read is none of deny, ro, cow, rw, shared%-rw', {
      root = ".", rules = { { "a", "read" } } })
    wrong('did you mean "shared%-rw"', { root = ".", rules = { { "a", "shared_rw" } } })
    wrong("no root= to find them in", { rules = { { "a", "ro" } } })
    for _, pattern in ipairs{ "", "/a", "a/", "../a", "a/../b", "./a", "a b", "a//b", "[ab]",
                              ("a"):rep(256) } do
      wrong("matches no name", { root = ".", rules = { { pattern, "ro" } } })
    end
    for _, value in ipairs{ -1, 17, 1.5, "x" } do wrong("'max_open'", { max_open = value }) end
    for _, value in ipairs{ -1, 1.5, "x" } do
      wrong("'max_bytes'", { max_bytes = value })
      wrong("'max_file'", { max_file = value })
      wrong("'max_files'", { max_files = value })
    end
    wrong("'decide'", { decide = true })
    wrong("'audit'", { audit = 1 })
  end)

  it("says why a directory cannot be used", function()
    local function refused(code, opts)
      local policy, why, name = kvm.files(opts)
      assert.is_nil(policy)
      assert.equal(code, name)
      assert.is_string(why)
    end
    refused("ENOENT", { root = "/no/such/place" })
    refused("ENOTDIR", { root = "/etc/passwd" })
    refused("ENOENT", { private = "/no/such/place" })
    refused("ENOTDIR", { private = "/etc/passwd" })
  end)

  it("is what the option files of kvm.vm takes", function()
    if support.without_kvm(pending) then return end
    assert.error_matches(function() kvm.vm{ files = {} } end, "'files': expected a file policy")
    assert.error_matches(function() kvm.vm{ files = io.stdout } end, "expected a file policy")
    local policy = kvm.files()
    policy:close()
    assert.equal("minikvm.files (closed)", tostring(policy))
    assert.error_matches(function() kvm.vm{ files = policy } end, "that is open")
  end)
end)

describe("file policies", function()
  if support.without_kvm(pending) then return end
  local root, keep

  before_each(function()
    root, keep = files.folder(), files.folder()
    shell("mkdir -p %s/in/sub %s/out", root, root)
    files.put(root .. "/in/a.txt", "in/a")
    files.put(root .. "/in/sub/b.txt", "in/sub/b")
    files.put(root .. "/out/c.txt", "out/c")
    files.put(root .. "/flowers.png", "flowers, the original")
    files.put(root .. "/secret.txt", "secret")
    files.put(root .. "/log", "log\n")
  end)

  after_each(function()
    files.remove(root)
    files.remove(keep)
    collectgarbage()
  end)

  local function policy(opts)
    local o = { root = root, audit = true }
    for key, value in pairs(opts) do o[key] = value end
    return assert(kvm.files(o))
  end

  local function guest(opts, more)
    return files.guest("block", policy(opts), more)
  end

  local function original(name)
    return files.get(root .. "/" .. name)
  end

  it("try rules in order; what none names is the VM's own", function()
    local g = guest{ rules = { { "in/sub/*", "deny" }, { "in/**", "ro" }, { "*.png", "cow" } } }
    assert.equal("in/a", g:content "in/a.txt")
    assert.equal(files.EACCES, g:open("in/sub/b.txt", READ))
    assert.equal(files.EACCES, g:open("in/sub/new", WRITE))
    assert.equal(files.EROFS, g:open("in/a.txt", WRITE))
    assert.equal(files.EROFS, g:open("in/a.txt", READ | TRUNC))
    assert.equal(files.EROFS, g:open("in/new.txt", WRITE))
    assert.equal(files.EROFS, g:open("in/new.txt", READ | CREATE))
    assert.equal(files.ENOENT, g:open("in/new.txt", READ))
    assert.equal(files.ENOENT, g:open("secret.txt", READ)) -- as if it were not there
    g:put("secret.txt", "mine")
    assert.equal("mine", g:content "secret.txt")
    assert.equal("secret", original "secret.txt")
    g.vm:close()
  end)

  it("match `*` within a component, `**` across them, `?` one character", function()
    local cases = {
      { "*", { "log" }, { "in/a.txt", "in/sub/b.txt" } },
      { "in/*", { "in/a.txt" }, { "log", "in/sub/b.txt" } },
      { "in/**", { "in/a.txt", "in/sub/b.txt" }, { "log" } },
      { "**", { "log", "in/a.txt", "in/sub/b.txt" }, {} },
      { "**/b.txt", { "in/sub/b.txt" }, { "in/a.txt" } },
      { "*/?.txt", { "in/a.txt", "out/c.txt" }, { "in/sub/b.txt", "flowers.png" } },
      { "l?g", { "log" }, { "in/a.txt" } },
      { "in?a.txt", {}, { "in/a.txt" } },
      { "*.p*g", { "flowers.png" }, { "log" } },
      { "**.txt", { "in/a.txt", "in/sub/b.txt", "secret.txt" }, { "log" } },
    }
    for _, case in ipairs(cases) do
      local g = guest{ rules = { { case[1], "ro" } } }
      for _, name in ipairs(case[2]) do assert.equal(0, g:open(name, READ), case[1]) g:close(0) end
      for _, name in ipairs(case[3]) do
        assert.equal(files.ENOENT, g:open(name, READ), case[1] .. " and " .. name)
      end
      g.vm:close()
    end
  end)

  it("deny everything but own files by default", function()
    for _, g in ipairs{ files.guest "block", files.guest("block", kvm.files()),
                        guest{ rules = {} } } do
      assert.equal(files.ENOENT, g:open("log", READ))
      g:put("log", "mine")
      assert.equal("mine", g:content "log")
      g.vm:close()
    end
    assert.equal("log\n", original "log")
  end)

  it("cow: copy at the first open for writing, for this VM alone, positions kept", function()
    local p = policy{ rules = { { "*.png", "cow" } } }
    local g, other = files.guest("block", p), files.guest("block", p)
    local a = g:open("flowers.png", READ)
    assert.equal("flowers", select(2, g:read(a, 7)))
    local theirs = other:open("flowers.png", READ)
    assert.equal("flow", select(2, other:read(theirs, 4)))
    local w = g:open("flowers.png", READ | WRITE)
    assert.equal("flowers", select(2, g:read(w, 7)))
    assert.equal(3, g:write(w, " of"))
    assert.equal(" ofhe original", select(2, g:read(a, 100)))
    assert.equal("ers, the original", select(2, other:read(theirs, 100)))
    g:close(a)
    g:close(w)
    assert.equal("flowers ofhe original", g:content "flowers.png")
    other:put("flowers.png", "other")
    assert.equal("flowers ofhe original", g:content "flowers.png")
    assert.equal("other", other:content "flowers.png")
    assert.equal("flowers, the original", original "flowers.png")
    assert.are_not.equal(g.vm.files:directory(), other.vm.files:directory())
    g.vm:close()
    other.vm:close()
  end)

  it("cow: truncates without copying, appends, creates what is missing", function()
    local g = guest{ rules = { { "**", "cow" } } }
    assert.equal(0, g:open("flowers.png", READ | TRUNC))
    assert.equal(0, g:stat(0))
    local r = g:open("in/sub/b.txt", READ)
    local a = g:open("in/sub/b.txt", WRITE | APPEND)
    g:write(a, "+")
    assert.equal("in/sub/b+", select(2, g:read(r, 100)))
    g:put("in/new", "new")
    assert.equal("new", g:content "in/new")
    assert.equal("flowers, the original", original "flowers.png")
    assert.equal("in/sub/b", original "in/sub/b.txt")
    assert.is_nil(original "in/new")
    local copies = 0
    for _, e in ipairs(g.vm.files:audit()) do
      if e.op == "copy" then copies = copies + 1 assert.equal(8, e.bytes) end
    end
    assert.equal(1, copies)
    g.vm:close()
  end)

  it("cow: keeps holes and copies what is longer than one piece", function()
    local path = root .. "/big.png"
    shell("dd if=/dev/urandom of=%s bs=1M count=9 seek=20 2>/dev/null", path)
    shell("truncate -s 40M %s", path)
    local g = guest({ rules = { { "*", "cow" } }, private = keep }, { name = "g" })
    assert.equal(0, g:open("big.png", READ | WRITE))
    shell("cmp %s %s/g/big.png", path, keep)
    assert.is_true(lfs.attributes(keep .. "/g/big.png").blocks * 512 < 12 << 20)
    g.vm:close()
  end)

  it("rw: the file itself, written by one VM at a time", function()
    local p = policy{ rules = { { "log", "rw" } } }
    local g, other = files.guest("block", p), files.guest("block", p)
    local fd = g:open("log", WRITE | APPEND)
    assert.equal(2, g:write(fd, "g\n"))
    assert.equal(1, g:open("log", READ | WRITE)) -- the same VM may
    assert.equal("log\ng\n", other:content "log")
    assert.equal(files.EBUSY, other:open("log", WRITE))
    g:close(1)
    g:close(fd)
    fd = other:open("log", WRITE | APPEND)
    assert.equal(2, other:write(fd, "o\n"))
    assert.equal("log\ng\no\n", original "log")
    assert.is_nil(g.vm.files:directory())
    g.vm:close()
    other.vm:close()
  end)

  it("shared-rw: the file itself, appended to by several VMs at once", function()
    local p = policy{ rules = { { "log", "shared-rw" } } }
    local g, other = files.guest("block", p), files.guest("block", p)
    local a, b = g:open("log", READ | WRITE | APPEND), other:open("log", WRITE | APPEND)
    for i = 1, 20 do
      assert.equal(2, g:write(a, "g\n"))
      assert.equal(2, other:write(b, "o\n"))
      assert.equal(4 + 4 * i, g:stat(a))
    end
    assert.equal("log\n" .. ("g\no\n"):rep(20), original "log")
    assert.equal(0, g:seek(a, 0, 0))
    assert.equal("log\n", select(2, g:read(a, 4)))
    g.vm:close()
    other.vm:close()
  end)

  it("rw and shared-rw: what is missing is made in the private directory", function()
    local g = guest{ rules = { { "out/*", "rw" }, { "in/*", "shared-rw" } } }
    g:put("out/new", "1")
    g:put("in/new", "2")
    assert.equal("1", g:content "out/new")
    assert.equal("2", g:content "in/new")
    assert.is_nil(original "out/new")
    assert.is_nil(original "in/new")
    g.vm:close()
  end)

  describe("private directories", function()
    it("vanish with the VM unless the policy says where they stay", function()
      local g = files.guest "block"
      assert.is_nil(g.vm.files:directory())
      g:put("x/y", "z")
      local directory = g.vm.files:directory()
      assert.equal("z", files.get(directory .. "/x/y"))
      assert.equal("rwx------", lfs.attributes(directory).permissions)
      g.vm:close()
      assert.is_nil(lfs.attributes(directory))
    end)

    it("stay, a new folder for each VM and each run", function()
      local p = policy{ private = keep }
      for i, want in ipairs{ "g", "g-2", "g-3" } do
        local g = files.guest("block", p, { name = "g" })
        assert.equal(files.ENOENT, g:open("f", READ))
        g:put("f", tostring(i))
        assert.equal(keep .. "/" .. want, g.vm.files:directory())
        if i == 3 then
          assert(g.vm:reset())
          assert.equal(files.ENOENT, g:open("f", READ))
          g:put("f", "4")
        end
        g.vm:close()
      end
      assert.same({ "g", "g-2", "g-3", "g-4" }, files.names(keep))
      assert.equal("1", files.get(keep .. "/g/f"))
      assert.equal("3", files.get(keep .. "/g-3/f"))
    end)

    it("are made where they are missing, and only for VMs that make files", function()
      local p = policy{ private = keep .. "/new" }
      for _, name in ipairs{ "none", "../up", "a/b", "..", "" } do
        local g = files.guest("block", p, { name = name })
        if name ~= "none" then g:put("f", name) end
        g.vm:close()
      end
      assert.same({ ".._up", "a_b", "vm", "vm-2" }, files.names(keep .. "/new"))
      assert.same({ "new" }, files.names(keep))
    end)
  end)

  describe("quotas", function()
    it("of open files answer EMFILE", function()
      local g = guest{ max_open = 2 }
      assert.equal(0, g:open("a", WRITE))
      assert.equal(1, g:open("b", WRITE))
      assert.equal(files.EMFILE, g:open("c", WRITE))
      g:close(0)
      assert.equal(0, g:open("c", WRITE))
      g.vm:close()
      g = guest{ max_open = 0 }
      assert.equal(files.EMFILE, g:open("a", READ))
      g.vm:close()
    end)

    it("of a file's size answer EFBIG and keep what was written", function()
      local g = guest{ max_file = 10, rules = { { "*", "cow" } } }
      local fd = g:open("f", READ | WRITE)
      assert.equal(8, g:write(fd, "12345678"))
      assert.equal(2, g:write(fd, "90abc"))
      assert.equal(files.EFBIG, g:write(fd, "x"))
      assert.equal(0, g:write(fd, ""))
      assert.equal(1 << 30, select(2, g:call(5, 0, fd, 0, 0, 1 << 30)))
      assert.equal(files.EFBIG, g:write(fd, "x"))
      assert.equal("1234567890", g:content "f")
      assert.equal(files.EFBIG, g:open("flowers.png", WRITE)) -- no copy of what is too long
      assert.equal(1, g:open("flowers.png", WRITE | TRUNC))
      g.vm:close()
    end)

    it("of bytes written answer ENOSPC and keep what was written", function()
      local g = guest{ max_bytes = 10 }
      local fd = g:open("f", READ | WRITE)
      assert.equal(6, g:write(fd, "123456"))
      g:open("g", READ | WRITE)
      assert.equal(4, g:write(1, "123456"))
      assert.equal(files.ENOSPC, g:write(1, "x"))
      assert.equal(files.ENOSPC, g:write(fd, "x"))
      assert.equal("123456", g:content "f")
      assert.equal("1234", g:content "g")
      assert.same({ open = 2, bytes = 10, files = 2 }, g.vm.files:usage())
      g.vm:close()
    end)

    it("of files made or copied answer ENOSPC", function()
      local g = guest{ max_files = 2, rules = { { "*", "cow" } } }
      g:put("f", "x")
      g:put("flowers.png", "x")
      assert.equal(files.ENOSPC, g:open("g", WRITE))
      assert.equal(files.ENOSPC, g:open("g", READ | CREATE))
      assert.equal(files.ENOSPC, g:open("log", WRITE))
      assert.equal("log\n", g:content "log")
      g:put("f", "y")
      assert.equal("y", g:content "f")
      g.vm:close()
    end)
  end)

  describe("decide", function()
    it("takes away, and never adds", function()
      local asked = {}
      local answers = { ["in/a.txt"] = "shared-rw", ["flowers.png"] = "ro", ["log"] = "cow",
                        ["secret.txt"] = true, mine = "ro" }
      local g = guest{
        rules = { { "in/*", "ro" }, { "*.png", "cow" }, { "log", "shared-rw" }, { "out/**", "ro" },
                  { "none", "deny" } },
        decide = function(name, mode)
          asked[#asked + 1] = name .. ":" .. mode
          if name == "out/c.txt" then return false end
          return answers[name]
        end }
      assert.equal(files.EROFS, g:open("in/a.txt", WRITE))
      assert.equal(files.EROFS, g:open("flowers.png", READ | WRITE))
      assert.equal("flowers, the original", g:content "flowers.png")
      g:put("log", "mine")
      assert.equal("log\n", original "log")
      assert.equal("mine", g:content "log")
      assert.equal(files.ENOENT, g:open("secret.txt", READ))
      assert.equal(files.EACCES, g:open("out/c.txt", READ))
      assert.equal(files.EROFS, g:open("mine", WRITE))
      assert.equal(files.EACCES, g:open("none", READ))
      assert.equal(files.EINVAL, g:open("../none", READ))
      g:put("other", "x")
      assert.same({ "in/a.txt:w", "flowers.png:rw", "flowers.png:r", "log:w", "log:r",
                    "secret.txt:r", "out/c.txt:r", "mine:w", "other:w" }, asked)
      g.vm:close()
    end)

    it("stops the VM with `error` when it fails or answers nonsense, and opens nothing", function()
      for _, case in ipairs{
        { function() error "no idea" end, "no idea" },
        { function() return 7 end, "decide answered number" },
        { function() return "own" end, "decide answered own" },
        { function() return "read" end, "decide answered read" },
        { function() kvm.vm():run() end, "would block inside a handler" } } do
        local g = guest{ rules = { { "*", "ro" } }, decide = case[1] }
        g.vm.memory:write(0x10000, "log")
        g.vm.memory:write(0x1000, ("<I4I4i4I4i8i8i8"):pack(1, READ, 0, 3, 0x10000, 0, 0))
        g.vm.memory:u32(0xf000, 0x1000)
        local reason, info = g.vm:run{ deadline = 20 }
        assert.equal("error", reason)
        assert.matches(case[2], info.text)
        assert.equal(0, g.vm.files:usage().open)
        g.vm:close()
      end
    end)

    it("is asked by several VMs at once, one call at a time", function()
      local inside, calls = false, 0
      local p = policy{ rules = { { "*", "ro" } }, decide = function()
        assert(not inside)
        inside = true
        for _ = 1, 1000 do calls = calls + 0 end
        calls, inside = calls + 1, false
      end }
      local vms = {}
      for i = 1, 4 do
        local parts = {}
        for byte in ("\1\1\3log\2\0\0\0\0"):gmatch "." do
          parts[#parts + 1] = support.out(0x278, byte:byte(), 1)
        end
        local body = table.concat(parts)
        local code = "\xb9\x64\x00" .. body .. "\x49\x0f\x85"  -- mov cx, 100 … dec cx; jnz
        code = code .. ("<i2"):pack(-(#body + 5)) .. "\xf4"
        vms[i] = support.vm{ files = p, coalesce = false }
        assert(vms[i]:load{ bytes = code })
        vms[i]:start()
      end
      for _, r in ipairs(kvm.wait(vms, { timeout = 60 })) do assert.equal("halt", r.reason) end
      assert.equal(400, calls)
      for _, vm in ipairs(vms) do vm:close() end
    end)

    it("lets the VM be closed while it is asked", function()
      local asked = 0
      local vm = support.vm{ coalesce = false, files = policy{
        decide = function() asked = asked + 1 end } }
      local parts = {}
      for byte in ("\1\1\1a"):gmatch "." do
        parts[#parts + 1] = support.out(0x278, byte:byte(), 1)
      end
      local body = table.concat(parts)
      assert(vm:load{ bytes = body .. "\xeb" .. string.char(256 - #body - 2) })
      vm:start()
      process.await(function() return asked > 10 end)
      vm:close()
    end)
  end)

  describe("the audit log", function()
    it("says operation, name, verdict and bytes", function()
      local g = guest{ rules = { { "in/*", "ro" }, { "*.png", "cow" }, { "secret*", "deny" } } }
      assert.equal("in/a", g:content "in/a.txt")
      g:open("secret.txt", READ)
      g:open("../etc", READ)
      g:put("own", "xyz")
      local fd = g:open("flowers.png", WRITE)
      g:write(fd, "ab")
      g:write(fd, "cd")
      g:close(99)
      local lines = {}
      local list, lost = g.vm.files:audit()
      for i, e in ipairs(list) do
        lines[i] = ("%s %s %s %d %d %s"):format(e.op, e.name, e.verdict, e.bytes, e.times,
                                               e.error or "-")
      end
      assert.same({ "open in/a.txt ro 0 1 -", "read in/a.txt ro 4 1 -", "close in/a.txt ro 0 1 -",
                    "open secret.txt deny 0 1 EACCES", "open ../etc invalid 0 1 EINVAL",
                    "open own own 0 1 -", "write own own 3 1 -", "close own own 0 1 -",
                    "copy flowers.png cow 21 1 -", "open flowers.png cow 0 1 -",
                    "write flowers.png cow 4 2 -", "close  invalid 0 1 EBADF" }, lines)
      assert.equal(0, lost)
      g.vm:close()
    end)

    it("is bounded", function()
      local g = guest{}
      for i = 1, 600 do
        g:open("f" .. i % 7, READ)
        g:close(-1)
      end
      local list, lost = g.vm.files:audit()
      assert.equal(1024, #list)
      assert.equal(1200 - 1024, lost)
      assert.equal("close", list[1024].op)
      g.vm:close()
    end)

    it("is an error where it was not asked for", function()
      local g = guest{ audit = false }
      assert.error_matches(function() g.vm.files:audit() end, "without audit = true")
      g.vm:close()
      assert.error_matches(function() g.vm.files:audit() end, "closed")
    end)
  end)

  describe("what is planted", function()
    local outside

    before_each(function()
      outside = files.folder()
      files.put(outside .. "/target", "outside")
      shell("mkdir %s/dir", outside)
    end)
    after_each(function() files.remove(outside) end)

    local function plant(where)
      shell("ln -s %s/target %s/link", outside, where)
      shell("ln -s target2 %s/dangling", where)
      shell("ln -s %s %s/dirlink", outside, where)
      shell("ln -s /proc/self/fd/0 %s/magic", where)
      shell("ln -s /proc/self/root %s/rootlink", where)
      shell("ln -s ../../../../../../../../etc %s/up", where)
      shell("mkfifo %s/fifo", where)
      shell("mkdir %s/folder", where)
      if IS_ROOT then
        shell("mknod %s/null c 1 3", where)
        shell("mknod %s/loop b 7 99", where)
      end
    end

    local NAMES <const> = { "link", "dangling", "dirlink/target", "dirlink/dir/new", "magic",
                            "fifo", "rootlink/etc/passwd", "up/passwd", "folder", "null", "loop" }

    local function check(g)
      for _, name in ipairs(NAMES) do
        for _, flags in ipairs{ READ, WRITE, READ | WRITE, WRITE | TRUNC, WRITE | APPEND } do
          if IS_ROOT or name ~= "null" and name ~= "loop" then
            assert.equal(files.EACCES, g:open(name, flags), name)
          end
        end
      end
      assert.equal("outside", files.get(outside .. "/target"))
      assert.same({ "dir", "target" }, files.names(outside))
      assert.same({}, files.names(outside .. "/dir"))
    end

    it("in the private directory opens nothing", function()
      local g = files.guest "block"
      g:put("f", "x")
      plant(g.vm.files:directory())
      check(g)
      local directory = g.vm.files:directory()
      g.vm:close()
      assert.is_nil(lfs.attributes(directory))
      assert.equal("outside", files.get(outside .. "/target"))
    end)

    for _, verdict in ipairs{ "cow", "rw", "shared-rw" } do
      it("in the root opens nothing, " .. verdict, function()
        plant(root)
        local g = guest{ rules = { { "**", verdict } } }
        check(g)
        g.vm:close()
      end)
    end

    it("as a link in place of the directory does not move the VM's files", function()
      local g = files.guest("block", policy{ private = keep }, { name = "g" })
      g:put("f", "x")
      shell("mv %s/g %s/moved && ln -s %s %s/g", keep, keep, outside, keep)
      g:put("target", "mine")
      assert.equal("mine", files.get(keep .. "/moved/target"))
      assert.equal("outside", files.get(outside .. "/target"))
      g.vm:close()
    end)

    it("is not reached through a mount point", function()
      if not IS_ROOT or not os.execute(("mount -t tmpfs none %s/in 2>/dev/null"):format(root)) then
        return pending "needs to mount"
      end
      files.put(root .. "/in/m", "mounted")
      local g = guest{ rules = { { "**", "ro" } } }
      local fd = g:open("in/m", READ)
      g.vm:close()
      shell("umount %s/in", root)
      assert.equal(files.EACCES, fd)
    end)

    it("is not reached below / either", function()
      local g = files.guest("block", assert(kvm.files{ root = "/", rules = { { "**", "ro" } } }))
      for _, name in ipairs{ "proc/self/environ", "proc/self/fd/0", "proc/version", "dev/null",
                             "dev/zero", "proc/self/root/etc/passwd" } do
        assert.equal(files.EACCES, g:open(name, READ), name)
      end
      assert.equal(0, g:open("etc/passwd", READ)) -- which its owner asked for
      g.vm:close()
    end)
  end)

  describe("a full disk", function()
    local small

    before_each(function()
      small = files.folder()
      if not IS_ROOT or not os.execute(("mount -t tmpfs -o size=64k none %s 2>/dev/null")
                                         :format(small)) then
        files.remove(small)
        small = nil
      end
    end)
    after_each(function()
      collectgarbage() -- a policy holds the folder
      collectgarbage()
      if small then
        shell("umount %s", small)
        files.remove(small)
      end
    end)

    it("answers ENOSPC, and what was written stays", function()
      if not small then return pending "needs to mount a small tmpfs" end
      local g = guest({ private = small }, { name = "g" })
      local fd = g:open("f", READ | WRITE)
      local written, n = 0, 0
      for _ = 1, 20 do
        n = g:write(fd, ("x"):rep(10000))
        if n < 10000 then break end
        written = written + n
      end
      if n > 0 then
        written = written + n
        n = g:write(fd, "x")
      end
      assert.equal(files.ENOSPC, n)
      assert.equal(written, g:stat(fd))
      assert.equal(("x"):rep(written), files.get(small .. "/g/f"))
      assert.equal(0, g:seek(fd, 0, 0))
      assert.equal(10, g:write(fd, ("y"):rep(10))) -- there is room for what is there
      g.vm:close()
    end)

    it("leaves no half copy, and the original as it was", function()
      if not small then return pending "needs to mount a small tmpfs" end
      local data = ("0123456789abcdef"):rep(16384) -- 256 KiB
      files.put(root .. "/big", data)
      local g = guest({ private = small, rules = { { "*", "cow" } } }, { name = "g" })
      local r = g:open("big", READ)
      g:read(r, 5)
      assert.equal(files.ENOSPC, g:open("big", WRITE))
      assert.equal("56789", select(2, g:read(r, 5)))
      assert.same({}, files.names(small .. "/g"))
      assert.equal(data, original "big")
      assert.equal(1, g:open("log", WRITE)) -- a small one fits
      assert.same({ "log" }, files.names(small .. "/g"))
      g.vm:close()
    end)
  end)

  it("leave no half file under a real name when the process is killed in mid-copy", function()
    shell("head -c 67108864 /dev/urandom > %s/big", root)
    for round = 1, 4 do
      local pipe, pid, path = process.child(([[
        package.path = "spec/?.lua;" .. package.path
        local files = require "support.files"
        local p = assert(kvm.files{ root = %q, private = %q, rules = { { "*", "cow" } } })
        local g = files.guest("block", p, { name = "g" })
        while true do
          assert(g:open("big", 2) == 0)
          print "copied"
          assert(g.vm:reset())
        end
      ]]):format(root, keep))
      pipe:read "l"
      assert.equal("copied", pipe:read "l")
      kvm.sleep(0.013 * round)
      os.execute("kill -9 " .. pid)
      pipe:close()
      os.remove(path)
      for _, folder in ipairs(files.names(keep)) do
        for _, name in ipairs(files.names(keep .. "/" .. folder)) do
          assert.equal("big", name)
          assert.equal(64 << 20, lfs.attributes(keep .. "/" .. folder .. "/big").size)
          shell("cmp %s/big %s/%s/big", root, keep, folder)
        end
      end
      shell("rm -rf %s/*", keep)
    end
  end)

  it("go with their last user, and leave no descriptor open", function()
    local function round(i)
      local p = policy{ private = keep, rules = { { "*", "cow" }, { "in/*", "ro" } },
                        decide = function() return true end }
      local g = files.guest("block", p, { name = "g" })
      if i % 2 == 0 then p:close() end
      p = nil
      collectgarbage()
      g:open("in/a.txt", READ)
      assert.is_true(g:open("log", READ | WRITE) >= 0)
      assert.equal(files.ENOENT, g:open("none", READ))
      assert.equal(files.EACCES, g:open("in", READ | WRITE))
      g.vm:close()
      assert.is_nil(p)
    end
    round(1)
    collectgarbage()
    local before = process.entries "/proc/self/fd"
    for i = 1, process.sanitized() and 40 or 100 do round(i) end
    collectgarbage()
    collectgarbage()
    assert.equal(before, process.entries "/proc/self/fd")
  end)

  it("do 1,000 opens by each kind of rule and failure without a descriptor more", function()
    local g = guest{ max_files = 10000, rules = { { "in/**", "ro" }, { "*.png", "cow" },
                                                  { "log", "rw" }, { "out/*", "shared-rw" } } }
    local function round(i)
      for _, name in ipairs{ "in/a.txt", "flowers.png", "log", "out/c.txt", "own" .. i % 50 } do
        g:close(g:open(name, READ))
        g:close(g:open(name, READ | WRITE))
        g:close(g:open(name .. "/x", WRITE))
      end
    end
    for i = 1, 10 do round(i) end
    local before = process.entries "/proc/self/fd"
    for i = 1, process.sanitized() and 100 or 500 do round(i) end
    assert.equal(before, process.entries "/proc/self/fd")
    assert.equal(0, g.vm.files:usage().open)
    g.vm:close()
  end)
end)

-- open(), POSIX: a descriptor is of the file that the name meant when it was opened. Editors and
-- log rotation replace files by rename().
describe("a file of the host that is replaced while it is open", function()
  if support.without_kvm(pending) then return end

  it("is the new one for who opens it now, the old one for who had it open", function()
    local root = files.folder()
    for _, verdict in ipairs{ "ro", "cow", "rw", "shared-rw" } do
      files.put(root .. "/a", "old")
      local g = files.guest("block", kvm.files{ root = root, rules = { { "a", verdict } } })
      local mode = verdict == "ro" and READ or READ | WRITE
      local old = g:open("a", mode)
      files.put(root .. "/b", "newer")
      assert(os.rename(root .. "/b", root .. "/a"))
      if verdict ~= "cow" then -- there it is its own copy by now
        local new = g:open("a", mode)
        assert.equal("newer", select(2, g:read(new, 9)))
        if mode ~= READ then
          assert.equal(1, g:write(new, "!"))
          assert.equal("newer!", files.get(root .. "/a"))
        end
        assert.equal(0, g:close(new))
      end
      assert.equal("old", select(2, g:read(old, 9)))
      assert.equal(0, g:close(old))
      g.vm:close()
    end
    files.remove(root)
  end)

  it("is gone for who opens it now when the host removed it", function()
    local root = files.folder()
    files.put(root .. "/a", "old")
    local g = files.guest("byte", kvm.files{ root = root, rules = { { "a", "ro" } } })
    local old = g:open("a", READ)
    os.remove(root .. "/a")
    assert.equal(files.ENOENT, g:open("a", READ))
    assert.equal("old", select(2, g:read(old, 9)))
    g.vm:close()
    files.remove(root)
  end)
end)
