-- A guest that wants to files it was not given, through the file port: what is refused by the
-- policy of its files (src/files), and, with a policy that lets it have all, by the jail's walls.
--
-- The guest writes an OPEN to the port (docs/abi.md) and reads the answer: a descriptor, or an
-- error's number, negative.

local lfs = require "lfs"
local abi = require "minikvm.abi"
local kvm = require "minikvm"
local escapes = require "support.escapes"
local program = require "support.program"
local support = require "support.guest"

local READ <const>, MAKE <const> = abi.FILE_READ, abi.FILE_WRITE | abi.FILE_CREATE
local WRITE <const>, ALL <const> = abi.FILE_WRITE, abi.FILE_READ | abi.FILE_WRITE | abi.FILE_CREATE
  | abi.FILE_TRUNC

-- mov dx, 0x278; mov si, 0x0e; mov cx, N; rep outsb; in al, dx; hlt; then the command
local function open_code(name, flags)
  local command = string.pack("BBs1", abi.FILE_OP_OPEN, flags, name)
  return string.pack("<BI2BI2BI2", 0xba, 0x278, 0xbe, 0x0e, 0xb9, #command)
    .. "\xf3\x6e\xec\xf4\x90" .. command
end

-- Names that lead out of the root, or that say something else than they seem to.
local NAMES <const> = {
  "../outside/secret", "..", ".", "", "/", "//", "../", "./../outside/secret", "/etc/passwd",
  "//etc/passwd", "sub/../../outside/secret", "sub/../sub/../../outside/secret",
  "sub/./../../outside/secret", "given/../../outside/secret", "link", "folder/secret", "absolute",
  "loop", "kernel/etc/passwd", "sub/up/outside/secret", "link/", "given/x", "sub/", "sub//file",
  "given\0", "..\0/outside/secret", "/proc/self/mem", "/proc/self/fd/0", "/dev/kvm", "/dev/null",
  "./", "...//../outside/secret", ("../"):rep(20) .. "etc/passwd", ("a/"):rep(100) .. "..",
  "hidden/file", "hidden",
}

-- What a policy that lets a guest have all of the host does not keep from it. What is not there it
-- may make in its private directory.
local OUTSIDE <const> = {
  "etc/passwd", "etc/shadow", "etc/hosts", "etc/group", "proc/self/mem", "proc/self/environ",
  "proc/self/maps", "proc/1/environ", "proc/version", "proc/sysrq-trigger", "dev/mem", "dev/zero",
  "dev/random", "dev/tty", "sys/kernel/mm/ksm/run", "bin/sh",
}

local folder

local function make_folder()
  folder = escapes.make_folder(lfs)
  local inside = folder .. "/inside/"
  for _, name in ipairs{ "sub", "hidden" } do
    assert(lfs.mkdir(inside .. name))
    assert(io.open(inside .. name .. "/file", "w")):write(name):close()
  end
  for name, target in pairs{ folder = "../outside", absolute = "/etc/passwd", loop = "loop",
                             kernel = "/proc/self/root", ["sub/up"] = "../.." } do
    assert(lfs.link(target, inside .. name, true))
  end
end

describe("a guest at the file port", function()
  if support.without_kvm(pending) then return end
  setup(make_folder)
  teardown(function() os.execute("rm -r " .. folder) end)

  it("gets no file that leads out of what it was given, whatever the name and the mode", function()
    local files = assert(kvm.files{ root = folder .. "/inside",
      rules = { { "hidden/*", "deny" }, { "hidden", "deny" }, { "**", "rw" } } })
    local vm <close> = kvm.vm{ files = files, echo = false }
    local count = 0
    local function answer(name, flags)
      count = count + 1
      vm:reset()
      vm:load{ bytes = open_code(name, flags) }
      assert.equal("halt", (vm:run()))
      local al = vm.cpu[0].al
      return al > 127 and al - 256 or al
    end
    assert.is_true(answer("given", READ) >= 0) -- what it may have
    assert.is_true(answer("sub/file", READ) >= 0)
    for _, name in ipairs(NAMES) do
      for _, flags in ipairs{ READ, WRITE, MAKE, ALL } do
        assert(answer(name, flags) < 0, ("%q, flags %d: it was opened"):format(name, flags))
      end
    end
    assert.is_true(count >= 2 + 60)
    assert.equal("secret", support.read_file(folder .. "/outside/secret"))
    assert.equal("given", support.read_file(folder .. "/inside/given"))
    assert.equal("hidden", support.read_file(folder .. "/inside/hidden/file"))
  end)

  it("gets none outside its jail either, where its policy lets it have all", function()
    local parts = { ([[
      local kvm = require "minikvm"
      local F = %q
      local jail = assert(kvm.jail{ change = F .. "/inside", files = true })
      for _, wall in ipairs(jail.walls) do print(wall) end
      local files = assert(kvm.files{ root = "/", rules = { { "**", "shared-rw" } } })
      local vm = kvm.vm{ files = files, echo = false }
      local function try(name, code)
        vm:reset()
        vm:load{ bytes = code }
        assert(vm:run() == "halt")
        print(name, vm.cpu[0].al < 128)
      end
    ]]):format(folder) }
    local function try(name, flags)
      parts[#parts + 1] = ("try(%q, %q)"):format(name .. flags, open_code(name, flags))
    end
    local root = folder:sub(2)
    try(root .. "/inside/given", READ)
    for _, name in ipairs(OUTSIDE) do
      for _, flags in ipairs{ READ, WRITE, MAKE } do try(name, flags) end
    end
    for _, name in ipairs{ "/outside/secret", "/outside/script.lua", "/outside" } do
      for _, flags in ipairs{ READ, WRITE, MAKE, ALL } do
        if lfs.attributes("/" .. root .. name) then try(root .. name, flags) end
      end
    end
    for _, name in ipairs{ "/outside/new", "/outside/empty/new" } do try(root .. name, MAKE) end
    local script = program.file(table.concat(parts, "\n"))
    local r = program.run("P " .. script)
    os.remove(script)
    assert.equal("", r.err)
    if not r.out:find "files\n" then return pending "this kernel has no Landlock" end
    if lfs.attributes(folder, "dev") == lfs.attributes("/", "dev") then -- roots end at mounts
      assert.matches("inside/given1\ttrue\n", r.out)
    end
    local rest = r.out:gsub("[^\n]*inside/given1\t%a+\n", ""):gsub("[^\n]*/new6\t%a+\n", "")
    assert(not rest:find "\ttrue\n", rest)
    assert.equal(3 * #OUTSIDE + 12, select(2, rest:gsub("\tfalse\n", "")))
    assert.equal("secret", support.read_file(folder .. "/outside/secret"))
    assert.is_nil(lfs.attributes(folder .. "/outside/new"))
    assert.is_nil(lfs.attributes(folder .. "/outside/empty/new"))
  end)
end)
