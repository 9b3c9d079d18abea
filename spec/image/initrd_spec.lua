-- kvm.initrd: archives of format "newc" (Linux, Documentation/driver-api/early-userspace/
-- buffer-format.rst), read back here field by field; and tables that are refused. That Linux takes
-- them is shown by linux_spec.lua.

local core = require "minikvm.core"
local kvm = require "minikvm"
local lfs = require "lfs"
local process = require "support.process"
local runner = require "support.program"

---What is in an archive: by name { number=, mode=, nlink=, data=, major=, minor= }; the names in
---order.
local function unpack_archive(bytes)
  local at, list, names = 1, {}, {}
  repeat
    assert.equal("070701", bytes:sub(at, at + 5))
    local f = {}
    for i = 1, 13 do f[i] = assert(tonumber(bytes:sub(at + 8 * i - 2, at + 8 * i + 5), 16)) end
    local name = bytes:sub(at + 110, at + 110 + f[12] - 2)
    local data_at = at + (110 + f[12] + 3) // 4 * 4
    assert.same({ 0, 0, 0, 0, 0, 0 }, { f[3], f[4], f[6], f[8], f[9], f[13] }) -- owner, time, …
    list[name] = { number = f[1], mode = f[2], nlink = f[5], major = f[10], minor = f[11],
                   data = bytes:sub(data_at, data_at + f[7] - 1) }
    names[#names + 1] = name
    at = data_at + (f[7] + 3) // 4 * 4
  until name == "TRAILER!!!"
  assert.equal(#bytes, at - 1)
  return list, names
end

local function path_of(bytes)
  local path = os.tmpname()
  local file <close> = assert(io.open(path, "wb"))
  file:write(bytes)
  return path
end

local function octal(text) return tonumber(text, 8) end

describe("an initramfs", function()
  it("has files, directories, nodes and links, each directory before what is in it", function()
    local host = path_of "of the host"
    local list, names = unpack_archive(assert(kvm.initrd{
      init = "#!/bin/sh\n", directories = { "tmp", root = octal "700" },
      files = { ["etc/./b"] = host, ["etc/a"] = { bytes = "\0\1\2", mode = octal "4644" },
                made = function() return "by Lua" end },
      nodes = { ["dev/console"] = { "c", 5, 1 }, ["dev/sda"] = { "b", 8, 300, mode = 432 } },
      links = { ["etc/c"] = "a" } }))
    os.remove(host)
    assert.same({ "dev", "dev/console", "dev/sda", "etc", "etc/a", "etc/b", "etc/c", "init", "made",
                  "root", "tmp", "TRAILER!!!" }, names)
    local function is(name, mode, data, nlink) -- types: cpio(5), inode(7)
      local e = list[name]
      assert.same({ octal(mode), data, nlink or 1 }, { e.mode, e.data, e.nlink }, name)
    end
    is("etc", "040755", "", 2)
    is("root", "040700", "", 2)
    is("etc/a", "104644", "\0\1\2")
    is("etc/b", "100755", "of the host")
    is("made", "100755", "by Lua")
    is("init", "100755", "#!/bin/sh\n")
    is("etc/c", "120777", "a")
    is("dev/console", "020600", "")
    is("dev/sda", "060660", "")
    assert.same({ 5, 1, 8, 300 }, { list["dev/console"].major, list["dev/console"].minor,
                                    list["dev/sda"].major, list["dev/sda"].minor })
  end)

  it("has the same bytes each time", function()
    local function make()
      local files = {}
      for i = 1, 50 do files[("f%d"):format(i * 7919 % 50)] = { bytes = ("x"):rep(i) } end
      return kvm.initrd{ files = files, init = "i" }
    end
    assert.equal(make(), make())
  end)

  it("can be compressed: gzip (RFC 1952)", function()
    local o = { init = ("text "):rep(1000) }
    local plain = kvm.initrd(o)
    o.gzip = true
    local packed = kvm.initrd(o)
    assert.equal("\x1f\x8b\x08\0\0\0\0\0", packed:sub(1, 8)) -- no name, no time
    assert.is_true(#packed < #plain // 10)
    assert.equal(plain, core.inflate(packed, #plain))
    local crc, size = ("<I4I4"):unpack(packed, -8)
    assert.same({ core.crc32(plain), #plain }, { crc, size })
  end)

  it("has a host's file in no more memory than that takes", function()
    if process.sanitized() then return pending "a sanitizer's shadow has no room in a limit" end
    local code = [[print(#kvm.initrd{ files = { a = "README.md" } })]]
    local r = runner.run(("ulimit -v 1000000; P -e '%s'"):format(code))
    assert.same({ 0, "" }, { r.status, r.err })
    assert.is_true(tonumber(r.out) > 10000)
  end)

  it("has a static busybox, and refuses one that needs libraries", function()
    -- an ELF64 header (gABI, chapter 4) and one program header, of type LOAD or INTERP
    local function program(kind)
      return "\x7fELF\2\1\1" .. ("\0"):rep(9)
        .. ("<I2I2I4I8I8I8I4I2I2I2I2I2I2"):pack(2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
        .. ("<I4"):pack(kind) .. ("\0"):rep(52)
    end
    local static, dynamic = path_of(program(1)), path_of(program(3))
    local list = unpack_archive(assert(kvm.initrd{ busybox = static }))
    assert.same({ program(1), "busybox" }, { list["bin/busybox"].data, list["bin/sh"].data })
    local made, why, code = kvm.initrd{ busybox = dynamic }
    assert.same({ nil, "ENOEXEC" }, { made, code })
    assert.match("needs shared libraries.*busybox%-static", why)
    os.remove(static)
    os.remove(dynamic)
  end)
end)

describe("modules of an initramfs", function()
  local tree

  ---A module: an ELF64 file with sections .shstrtab and .modinfo (gABI, chapter 4, "Sections").
  local function module_file(depends, more)
    local texts = "\0.shstrtab\0.modinfo\0"
    local info = "license=GPL\0depends=" .. depends .. "\0" .. (more or "")
    local header = "\x7fELF\2\1\1" .. ("\0"):rep(9)
      .. ("<I2I2I4I8I8I8I4I2I2I2I2I2I2"):pack(1, 62, 1, 0, 0, 64, 0, 64, 0, 0, 64, 3, 1)
    local function section(name, at, size)
      return ("<I4I4I8I8I8I8I4I4I8I8"):pack(name, 1, 0, 0, at, size, 0, 0, 1, 0)
    end
    local at = 64 + 3 * 64
    return header .. ("\0"):rep(64) .. section(1, at, #texts)
      .. section(11, at + #texts, #info) .. texts .. info
  end

  local function write(name, bytes)
    local file <close> = assert(io.open(tree .. "/" .. name, "wb"))
    file:write(bytes)
  end

  setup(function()
    tree = os.tmpname()
    os.remove(tree)
    assert(lfs.mkdir(tree))
    write("modules.order", "a.ko\nb-b.ko\nc.ko\nxz.ko\nzst.ko\ngz.ko\nbad.ko\nshort.ko\ngone.ko\n"
          .. "soft.ko\nsum_generic.ko\nlate.ko\nit's.ko\n")
    write("modules.builtin", "kernel/fs/d.ko\n")
    write("a.ko", module_file "b-b,c")
    write("b-b.ko", module_file "c,d")
    write("c.ko", module_file "")
    write("xz.ko.xz", "packed")
    write("zst.ko.zst", "packed")
    write("gz.ko.gz", "packed")
    write("soft.ko", module_file("", "softdep=pre: crypto-sum nosuch post: late soft\0softdep=c\0"))
    write("sum_generic.ko", module_file "")
    write("late.ko", module_file "soft")
    write("bad.ko", "no module")
    write("short.ko", module_file(""):sub(1, -2))
  end)

  teardown(function()
    for name in lfs.dir(tree) do os.remove(tree .. "/" .. name) end
    lfs.rmdir(tree)
  end)

  it("come with what they need, in the order in which they can be loaded", function()
    local list = unpack_archive(assert(kvm.initrd{ modules = { "d", "a", "c", from = tree } }))
    assert.equal("c\nb_b\na\n", list["lib/modules/order"].data)
    assert.equal(module_file "c,d", list["lib/modules/b_b.ko"].data)
    assert.is_nil(list["lib/modules/d.ko"]) -- built into the kernel
  end)

  it("come with those that a softdep names, where the tree has them", function() -- modprobe.d(5)
    local list = unpack_archive(assert(kvm.initrd{ modules = { "soft", from = tree } }))
    assert.equal("sum_generic\nc\nsoft\nlate\n", list["lib/modules/order"].data)
    write("modules.alias", "# of depmod\nalias nosuch a\nalias pci:v00* b-b\n")
    list = unpack_archive(assert(kvm.initrd{ modules = { "soft", from = tree } }))
    assert(os.remove(tree .. "/modules.alias"))
    assert.match("^sum_generic\n.*a\n.*soft\nlate\n$", list["lib/modules/order"].data)
  end)

  it("may be compressed", function()
    local bytes = module_file "c"
    local function packed(program, name)
      local plain = path_of(bytes)
      local path = tree .. "/" .. name
      local done = os.execute(("%s -qc <%s >'%s' 2>/dev/null"):format(program, plain,
                                                                   (path:gsub("'", "'\\''"))))
      os.remove(plain)
      return done
    end
    for name, program in pairs{ ["xz.ko.xz"] = "xz", ["zst.ko.zst"] = "zstd", ["gz.ko.gz"] = "gzip",
                                ["it's.ko.xz"] = "xz" } do
      if packed(program, name) then
        local made, why = kvm.initrd{ modules = { name:match "^(.-)%.", from = tree } }
        assert.is_nil(why)
        local list = unpack_archive(made)
        assert.equal(bytes, list[("lib/modules/%s.ko"):format(name:match "^(.-)%.")].data)
      end
      write(name, "packed")
    end
  end)

  it("are refused when they are not there, damaged or none", function()
    for name, message in pairs{
      nosuch = "it has no module \"nosuch\"",
      xz = "xz.ko.xz: .*[xz]", zst = "zst.ko.zst: .*zstd", gz = "gz.ko.gz: it is damaged",
      bad = "bad.ko: not an ELF file", short = "short.ko: it is no kernel module",
      gone = "gone.ko: No such file",
    } do
      local made, why = kvm.initrd{ modules = { name, from = tree } }
      assert.is_nil(made)
      assert.match(message, why)
    end
    assert.match("modules.order: No such file",
                 select(2, kvm.initrd{ modules = { "a", from = tree .. "/no" } }))
    assert.error_matches(function() kvm.initrd{ modules = { "a" } } end, "'from' is missing")
    assert.error_matches(function() kvm.initrd{ modules = { 7, from = tree } } end,
                         "expected a name")
  end)
end)

describe("a table for an initramfs is refused", function()
  local FILE <const> = { bytes = "" }

  for what, case in pairs{
    ["with '..'"] = { { files = { ["a/../b"] = FILE } }, "path \"a/../b\": '..' leads out" },
    ["with an absolute path"] = { { files = { ["/etc/a"] = FILE } }, "without '/' in front" },
    ["with a NUL in a path"] = { { nodes = { ["a\0b"] = { "c", 1, 3 } } }, "it has a NUL in it" },
    ["with an empty path"] = { { directories = { "./" } }, "it names nothing" },
    ["with the end's name"] = { { files = { ["TRAILER!!!"] = FILE } }, "what ends an archive" },
    ["with a long name"] = { { files = { [("a"):rep(256)] = FILE } }, "longer than 255 bytes" },
    ["with a long path"] = { { files = { [("a/"):rep(2048) .. "a"] = FILE } }, "longer than 4095" },
    ["with a path twice"] = { { files = { ["a/b"] = FILE, ["a//./b"] = FILE } },
                              "path \"a/b\" is there twice: files has it, too" },
    ["with a path in two lists"] = { { files = { init = FILE }, init = "" }, "twice: init has it" },
    ["with a file as a directory"] = { { files = { a = FILE, ["a/b"] = FILE } },
                                       "path \"a/b\" needs a directory \"a\", which is a file" },
    ["with an unknown option"] = { { file = {} }, "unknown option 'file' %(did you mean 'files'" },
    ["with a number for a file"] = { { files = { a = 7 } }, "%[\"a\"%]: expected a path of the" },
    ["with a path that is a number"] = { { files = { FILE } }, "expected a path, got a number" },
    ["with neither path nor bytes"] = { { files = { a = {} } }, "give either 'path' or 'bytes'" },
    ["with a function without result"] = { { files = { a = function() end } }, "returned a nil" },
    ["with a wrong mode"] = { { directories = { a = 4096 } }, "expected permissions" },
    ["with a wrong node"] = { { nodes = { a = { "c", 1, 1 << 20 } } }, "major, minor" },
    ["with a link to nowhere"] = { { links = { a = "" } }, "expected the path that it leads to" },
    ["with a number for busybox"] = { { busybox = 1 }, "'busybox': expected true or a path" },
  } do
    it(what, function()
      assert.error_matches(function() kvm.initrd(case[1]) end, case[2])
    end)
  end

  it("with a host's file that is missing, a directory, a device, or that is named wrong", function()
    for path, want in pairs{
      ["/nosuch/file"] = { "/nosuch/file: No such file or directory", "ENOENT" },
      ["/tmp"] = { "/tmp: it is a directory, not a file", "EISDIR" },
      ["/dev/zero"] = { "/dev/zero: not a regular file", "EINVAL" },
      ["/tmp\0x"] = { "no NUL in it", "EINVAL" }, [""] = { "No such file", "ENOENT" },
    } do
      local made, why, code = kvm.initrd{ files = { a = path } }
      assert.same({ nil, want[2] }, { made, code })
      assert.match(want[1], why)
    end
  end)
end)
