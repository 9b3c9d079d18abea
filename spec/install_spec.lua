-- What `make install` puts below a prefix: whole, usable from anywhere, and gone again with
-- `make uninstall`. tools/install is called as the Makefile calls it, with what is built.

local lfs = require "lfs"
local process = require "support.process"
local program = require "support.program"
local support = require "support.guest"

local build <const> = program.minikvm:match "^(.*)/" -- build/release, under any interpreter
local folder, prefix

local function sh(command) return program.run(command) end

local function install(word, where)
  return sh(("B=%s PREFIX='%s' VERSION=1.2.3 LUA_PC=lua5.4 tools/install %s"):format(
    build, where or prefix, word or ""))
end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

local function files_below(path)
  local r = sh(("cd '%s' && find . -type f | sort"):format(path))
  return r.out
end

describe("make install", function()
  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    prefix = folder .. "/a prefix" -- with a space in its name
    assert(lfs.mkdir(folder))
    local r = install()
    assert.same({ 0, "", "" }, { r.status, r.out, r.err })
  end)

  teardown(function() sh(("rm -rf '%s'"):format(folder)) end)

  it("puts program, module, header, manuals and completions in their places", function()
    local all = files_below(prefix)
    for _, place in ipairs{
      "bin/minikvm", "lib/lua/5.4/minikvm.so", "include/minikvm.h", "lib/pkgconfig/minikvm.pc",
      "share/man/man1/minikvm.1", "share/man/man1/minikvm-run.1", "share/man/man1/minikvm-test.1",
      "share/man/man1/minikvm-linux.1", "share/bash-completion/completions/minikvm",
      "share/zsh/site-functions/_minikvm", "share/fish/vendor_completions.d/minikvm.fish",
      "share/minikvm/scripts/multi_vm.lua", "share/minikvm/guests/guest.mk",
      "share/minikvm/os-1k/kernel.bin", "share/doc/minikvm/docs/lua-api.md",
      "share/minikvm/types/minikvm.lua", "share/minikvm/types/minikvm/devices/net.lua",
      "share/minikvm/luarc.json",
    } do
      assert.truthy(all:find("./" .. place .. "\n", 1, true), place)
    end
  end)

  it("makes manual pages that man takes, with every option of the help", function()
    local page = ("'%s/share/man/man1/minikvm-run.1'"):format(prefix)
    local text = assert(io.open(page:sub(2, -2))):read "a"
    local help = sh("P run --help").out
    for option in help:gmatch "\n   (%-%-[%w-]+)" do
      assert.truthy(text:find("\\fB" .. option:gsub("%-", "\\-"), 1, true), option)
    end
    if sh("command -v groff").status == 0 then
      assert.same({ 0, "" }, (function(r) return { r.status, r.err } end)(
        sh("groff -man -ww -z -Tutf8 " .. page)))
    end
  end)

  it("runs its scripts from anywhere", function()
    if support.without_kvm(pending) then return end
    local r = sh(("cd / && '%s/bin/minikvm' '%s/share/minikvm/scripts/multi_vm.lua'"):format(
      prefix, prefix))
    assert.equal(0, r.status, r.err)
    assert.matches("%[hello%] Hello, KVM!\n", r.out)
    if not process.sanitized() then -- whose runtime must come first in a process
      r = sh(("cd / && LUA_CPATH='%s/lib/lua/5.4/?.so' %s '%s/share/minikvm/scripts/hello.lua'")
        :format(prefix, program.lua, prefix))
      assert.equal(0, r.status, r.err)
    end
    r = sh(("cd / && '%s/share/minikvm/tools/linux-kernel' --help"):format(prefix))
    assert.same({ 0, "" }, { r.status, r.err })
    assert.matches("^usage: tools/linux%-kernel\n", r.out)
  end)

  it("gives C programs what they need by pkg-config", function()
    if process.sanitized() then return pending "a sanitizer's runtime must come first" end
    write(folder .. "/embed.c", [[
#include <lauxlib.h>
#include <lualib.h>
#include <minikvm.h>
int main(void)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    luaL_requiref(L, "minikvm", luaopen_minikvm, 1);
    return luaL_dostring(L, "print(minikvm._VERSION)") || MINIKVM_VERSION_NUMBER < 100;
}
]])
    local r = sh(([[cd '%s' && export PKG_CONFIG_PATH="$PWD/a prefix/lib/pkgconfig" &&
      eval "gcc -o embed embed.c $(pkg-config --cflags --libs minikvm)" &&
      ./embed]]):format(folder))
    assert.same({ 0, "" }, { r.status, r.err })
    assert.equal(require("minikvm")._VERSION .. "\n", r.out)
    local command = "PKG_CONFIG_PATH='%s/lib/pkgconfig' pkg-config --modversion minikvm"
    assert.equal("1.2.3\n", sh(command:format(prefix)).out)
  end)

  it("has a kit that builds guests of 16, 32 and 64 bits", function()
    if support.without_kvm(pending) then return end
    local kit = folder .. "/kit" -- make cannot name files with a space
    assert(lfs.mkdir(kit))
    sh(("ln -s '%s' %s/installed"):format(prefix, folder))
    write(kit .. "/Makefile", ("GUESTS16 = a.bin\nGUESTS32 = b.bin\nGUESTS64 = c.bin\n"
      .. "include %s/installed/share/minikvm/guests/guest.mk\nall: $(GUESTS)\n"):format(folder))
    write(kit .. "/a.S", '#include "real.inc"\n mov si, offset text\n call puts\n hlt\n puts_body\n'
      .. 'text: .asciz "sixteen\\n"\n')
    write(kit .. "/b.S", '#include "prot.inc"\n print "thirty-two\\n"\n hlt\n puts_body\n')
    write(kit .. "/c.c", '#include "minikvm.h"\nint main(void)\n{\n    printf("%d\\n", 64);\n'
      .. '    return 3;\n}\n')
    local made = sh("make -s -C " .. kit)
    assert.same({ 0, "" }, { made.status, made.err })
    for mode, expected in pairs{ real = "sixteen\n", protected = "thirty-two\n", long = "64\n" } do
      local image = ({ real = "a", protected = "b", long = "c" })[mode]
      local r = sh(("P run --mode %s %s/%s.bin"):format(mode, kit, image))
      assert.equal(expected, r.out, r.err)
      assert.equal(mode == "long" and 3 or 0, r.status)
    end
  end)

  it("takes away what an older copy had and this one has not, and nothing else", function()
    write(prefix .. "/share/minikvm/scripts/mine.lua", "")
    write(prefix .. "/share/minikvm/scripts/old.lua", "")
    sh(("echo share/minikvm/scripts/old.lua >>'%s/share/minikvm/installed'"):format(prefix))
    assert.equal(0, install().status)
    local all = files_below(prefix)
    assert.falsy(all:find("old.lua", 1, true))
    assert.truthy(all:find("mine.lua", 1, true))
    assert.equal(0, install("--remove").status)
    assert.equal("./share/minikvm/scripts/mine.lua\n", files_below(prefix))
    local again = install("--remove")
    assert.equal(1, again.status)
    assert.matches("share/minikvm/installed is not there", again.err)
    assert.equal(0, install().status)
  end)

  it("says what is in the way", function()
    write(folder .. "/file", "")
    local r = install("", folder .. "/file")
    assert.equal(1, r.status)
    assert.matches("/file is no folder: choose another PREFIX", r.err)
    assert(lfs.mkdir(folder .. "/other"))
    assert.equal(0, sh(("mkdir -p %s/other/bin/minikvm"):format(folder)).status)
    r = install("", folder .. "/other")
    assert.equal(1, r.status)
    assert.matches("/other/bin/minikvm is a folder and in the way", r.err)
    r = install("", "here")
    assert.equal(1, r.status)
    assert.matches("PREFIX=here: it begins with a slash", r.err)
  end)

  it("writes nothing where it may not write all", function()
    if sh("id -u").out ~= "0\n" or sh("command -v setpriv").status ~= 0 then
      return pending "it takes root, and setpriv(1)"
    end
    local as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups env B=%s PREFIX=%s/root "
      .. "VERSION=1 LUA_PC=lua5.4 tools/install"
    sh(("chmod 755 %s; mkdir %s/root"):format(folder, folder))
    local r = sh(as_nobody:format(build, folder))
    assert.equal(1, r.status)
    assert.matches("/root cannot be written to: be root, or choose another PREFIX", r.err)
    sh(("chown 65534 %s/root; mkdir -p %s/root/share/man"):format(folder, folder))
    r = sh(as_nobody:format(build, folder))
    assert.equal(1, r.status)
    assert.matches("/root/share cannot be written to: be root", r.err)
    assert.equal("", files_below(folder .. "/root"))
  end)

  it("leaves nothing for ever when it was cut off", function()
    local half = folder .. "/half"
    sh(([[mkdir %s %s/bin && printf '%%s\n' '#!/bin/sh' 'case $* in *bash-comp*) exit 1; esac' \
      'exec /usr/bin/install "$@"' >%s/bin/install && chmod +x %s/bin/install]])
      :format(half, folder, folder, folder))
    local r = sh(("PATH=%s/bin:$PATH B=%s PREFIX=%s VERSION=1 LUA_PC=lua5.4 tools/install"):format(
      folder, build, half))
    assert.equal(1, r.status)
    assert.matches("cannot write below " .. half .. "/share/bash%-completion", r.err)
    assert.truthy(files_below(half):find("./bin/minikvm\n", 1, true))
    assert.equal(0, install("--remove", half).status)
    assert.equal("", files_below(half))
  end)
end)
