-- A build without src/x86/weak (make WEAK=0): it runs guests, and on a host whose KVM needs what
-- was left out it says so.

local support = require "support.guest"

local PROGRAM <const> = "build/without-weak/minikvm"

local function make()
  local command = "make WEAK=0 B=build/without-weak OPT_release=-O0 build/without-weak/minikvm 2>&1"
  local pipe = assert(io.popen(command))
  local text = pipe:read "a"
  return pipe:close(), text
end

describe("a build without what helps a weak KVM", function()
  if support.without_kvm(pending) then return end
  if not os.execute "command -v make >/dev/null && command -v cc >/dev/null" then
    return pending "needs make and a compiler"
  end

  lazy_setup(function()
    local done, text = make()
    assert.is_true(done, text)
  end)

  local function run(script)
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(script)
    file:close()
    local pipe = assert(io.popen(("%s %s 2>&1"):format(PROGRAM, path)))
    local text = pipe:read "a"
    pipe:close()
    os.remove(path)
    return text
  end

  it("has none of it", function()
    local pipe = assert(io.popen("nm " .. PROGRAM))
    local symbols = pipe:read "a"
    pipe:close()
    assert.matches("mk_assist_new", symbols)
    assert.not_matches("mk_shadow", symbols)
  end)

  it("runs guests in modes real and long", function()
    assert.equal("Hello, KVM!\n", run [[
      local vm = require "minikvm".vm{ mode = "long" }
      assert(vm:load "guests/build/long/hello.elf")
      assert(vm:run{ deadline = 20 } == "halt")
    ]])
    assert.matches("^halt\n", run [[
      local vm = require "minikvm".vm{ echo = false }
      assert(vm:load "guests/real/hello.bin")
      print((vm:run{ deadline = 20 }))
      local snap = assert(vm:snapshot())
      assert(vm:restore(snap))
    ]])
  end)

  it("runs 32-bit paging where KVM does, and says elsewhere what is missing", function()
    local text = run [[
      local vm = require "minikvm".vm{ mode = "paged", echo = false }
      print(vm:load{ bytes = "\xf4" })
      print(pcall(vm.run, vm, { deadline = 20 }))
    ]]
    if support.host.paging32 == "native" then return assert.matches("true\thalt", text) end
    assert.matches("this KVM does not run 32%-bit paging %(it drops CR0.PG%): this minikvm was "
      .. "built without what stands in for such a KVM %(make WEAK=0%)", text)
  end)

  it("says why an instruction could not be run", function()
    -- lidt of nothing; int 0x40: a stock KVM shuts down at it (SDM volume 3, 6.15, double fault)
    local text = run [[
      local vm = require "minikvm".vm{ mode = "protected", echo = false }
      assert(vm:load{ bytes = "\xcd\x40\xf4" })
      print(select(2, vm:run{ deadline = 20 }).text)
    ]]
    if support.host.int_n == "native" then return assert.matches("triple fault", text) end
    assert.matches("KVM could not run the instruction at rip 0x1000 .*built without what stands in",
                   text)
  end)

  it("knows of a stock KVM only", function()
    local words = support.host.host == "pvm" and "unknown" or "native"
    assert.equal(words, run [[io.write(require "minikvm".probe().paging32)]])
  end)
end)
