-- vm:linux(): what is said when the agent in a guest does not answer as docs/abi.md, "Agent", has
-- it. The guests here are a few instructions that write answers into the window and ring; that the
-- agent itself answers well is shown by spec/guests/linux_agent_spec.lua, on a KVM that runs Linux.

local abi = require "minikvm.abi"
local kvm = require "minikvm"
local core = require "minikvm.core"
local make = require "support.image"
local support = require "support.guest"

local message <const> = support.message

local READY <const>, DATA <const>, END <const> = abi.AGENT_READY, abi.AGENT_DATA, abi.AGENT_END
local CODE_MAX <const> = 0x400 -- bytes

---An answer: six words of 32 bits, little-endian, then its bytes; the sixth word is the CRC-32 of
---all the others.
local function frame(kind, number, status, bytes, o)
  o = o or {}
  bytes = bytes or ""
  local head = ("<I4I4I4i4I4"):pack(o.magic or abi.AGENT_ANSWER, number, kind, status or 0,
                                    o.length or #bytes)
  return head .. ("<I4"):pack(o.sum or core.crc32(bytes, core.crc32(head))) .. bytes
end

---A kernel that puts these into the window, one after the other, and rings for each; then cli; hlt,
---or whatever `finish` is.
local function guest(frames, finish)
  local code, at = {}, make.BZIMAGE_AT + 0x200 + CODE_MAX
  for i, bytes in ipairs(frames) do
    code[i] = "\xbe" .. ("<I4"):pack(at) -- mov esi, at
      .. "\xbf" .. ("<I4"):pack(abi.AGENT_WINDOW) -- mov edi, the window
      .. "\xb9" .. ("<I4"):pack(#bytes) .. "\xf3\xa4" -- mov ecx, length; rep movsb
      .. "\x66\xba" .. ("<I2"):pack(abi.PORT_AGENT) .. "\xef" -- mov dx, port; out dx, eax
    at = at + #bytes
  end
  local text = table.concat(code) .. (finish or "\xfa\xf4")
  local kernel = make.bzimage(text .. ("\0"):rep(CODE_MAX - #text) .. table.concat(frames))
  local vm = support.vm{ mode = "linux", name = "guest", memory = "64M" }
  assert(vm:load{ bytes = make.bzimage_bytes(kernel) })
  return vm, vm:linux()
end

describe("vm:linux", function()
  if support.without_kvm(pending) then return end

  it("is for mode linux, and says what is wrong with its arguments", function()
    local plain <close> = support.vm{ mode = "long" }
    assert.match('this is for a vm of mode "linux"', message(plain.linux, plain))
    local vm <close>, linux = guest{}
    for text, fn in pairs{
      ["linux:sh: 'command': expected a string without NUL"] = function() linux:sh "a\0b" end,
      ["linux:sh: option 'timeout'"] = function() linux:sh("true", { timeout = -1 }) end,
      ["a command has 65512 bytes at most"] = function() linux:sh((" "):rep(65513)) end,
      ["linux:read: 'path': expected a path of 1 to 4095"] = function() linux:read "" end,
      ["linux:write: option 'mode': expected permissions"] = function()
        linux:write("a", "b", { mode = 99999 })
      end,
      ["linux:write: 'bytes'"] = function() linux:write("a") end,
      ["expected one of emerg"] = function() linux:dmesg{ level = "loud" } end,
      ["option 'random': expected true, false or 1 to 256 bytes"] = function()
        linux:renew{ random = "" }
      end,
      ["unknown option 'clocks' %(did you mean 'clock'%?%)"] = function()
        linux:renew{ clocks = true }
      end,
    } do
      assert.match("agent_spec.lua:%d+: .*" .. text, message(fn))
    end
    assert.equal("idle", vm.state)
    vm:close()
    assert.match("closed", message(linux.sh, linux, "true"))
  end)

  it("takes an answer in parts, and gives the status that a shell would", function()
    local vm <close>, linux = guest{
      frame(READY, 0), frame(DATA, 1, 0, "one\n"), frame(DATA, 1, 0, "\0two\xff"),
      frame(END, 1, 3 << 8), frame(END, 2, 9), frame(END, 3, -2), frame(END, 4),
      frame(END, 5), frame(END, 6),
    }
    local output, status = linux:sh "x"
    assert.same({ "one\n\0two\xff", 3 }, { output, status })
    assert.same({ "", 128 + 9 }, { linux:sh "killed" }) -- SIGKILL
    local bytes, why, code = linux:read "/no"
    assert.same({ nil, "/no: No such file or directory", "ENOENT" }, { bytes, why, code })
    assert.is_true(linux:write("/empty", "")) -- two questions: to make it, to close it
    assert.equal("", linux:read "/empty")
    assert.not_equal("running", vm.state)
  end)

  it("asks as docs/abi.md has it", function()
    local vm <close>, linux = guest({ frame(READY, 0) }, "\xeb\xfe") -- jmp $
    linux:wait()
    pcall(linux.sh, linux, "echo", { timeout = 0.05 })
    local head = ("<I4I4I4i4I4"):pack(abi.AGENT_QUESTION, 1, abi.AGENT_RUN, 0, 4)
    assert.equal(head .. ("<I4"):pack(core.crc32(head .. "echo")) .. "echo",
                 vm.memory:read(abi.AGENT_WINDOW, 28))
  end)

  -- What a guest does after it has said that it is there, and what is said of it.
  for what, case in pairs{
    ["garbage"] = { "garbage: 0x21212121 where an answer has 0x21416b6d", { ("!"):rep(100) } },
    ["a length that does not fit"] = {
      "garbage: 4294967295 bytes, where there is room for 65512",
      { frame(END, 1, 0, "", { length = 0xffffffff }) } },
    ["half an answer"] = { "a part of an answer: its 8 bytes have the checksum",
                           { frame(DATA, 1, 0, "complete"):sub(1, -5) .. "\0\0\0\0" } },
    ["an answer to another question"] = { "another question: number 7, asked was number 1",
                                          { frame(END, 7) } },
    ["an unknown kind of answer"] = { "unknown kind of answer, 99", { frame(99, 1) } },
    ["a new beginning"] = { "the agent was started anew", { frame(READY, 0) } },
    ["no answer, and the end"] = { "the guest ended: halt", {} },
    ["a part, and the end"] = { "the guest ended: halt.*its output so far:\n    | begun\n",
                                { frame(DATA, 1, 0, "begun\n") } },
    ["no answer"] = { "no answer within 0.2 s", {}, "\xeb\xfe" }, -- jmp $
    ["a triple fault"] = { "the guest ended: shutdown", {}, -- lidt [0x10]: a limit of 0; int3
                           "\x0f\x01\x1c\x25\x00\x01\x00\x00\xcc" },
  } do
    it("says that it got " .. what .. ", and goes on from a snapshot", function()
      local vm <close>, linux = guest({ frame(READY, 0), table.unpack(case[2]) }, case[3])
      linux:wait()
      local ready = assert(vm:snapshot())
      for _ = 1, 2 do
        local why = message(linux.sh, linux, "ls", { timeout = 0.2 })
        assert.match("linux:sh \"ls\": .*" .. case[1], why)
        assert.match("\n  printed last:\n    %(nothing%)\n", why)
        why = message(linux.read, linux, "/a")
        assert.match("linux:read \"/a\": restore the vm first: .* since linux:sh \"ls\": ", why)
        assert(vm:restore(ready))
      end
    end)
  end

  it("stops listening when a guest says more than it may", function()
    local flood = frame(DATA, 1, 0, ("x"):rep(1000))
    local vm <close>, linux = guest({ frame(READY, 0), flood, flood, flood }, "\xeb\xfe")
    assert.match("the agent: it sent more than 2500 bytes: 'limit' may be more",
                 message(linux.sh, linux, "yes", { limit = 2500 }))
    assert.not_equal("running", vm.state)
  end)

  it("does not wait for a guest that has ended, or does not come up", function()
    local vm <close>, linux = guest{}
    assert.match("linux:wait: the guest ended: halt", message(linux.wait, linux))
    assert.match("restore the vm first", message(linux.wait, linux))
    local silent <close>, other = guest({}, "\xeb\xfe")
    assert.match("linux:wait: no answer within 0.1 s\n  printed last:\n.*cpu 0: deadline at rip "
                 .. "0x1000200", message(other.wait, other, { timeout = 0.1 }))
    local filling <close>, third = guest({}, "\xb0\x41\xe6\xe9\xeb\xfc") -- prints A for ever
    local why = message(third.wait, third, { timeout = 0.1 })
    assert.match("printed last:\n    | ...\n    | A+\n", why)
    assert.truthy(#why < 2000)
    for _, one in ipairs{ vm, silent, filling } do assert.equal("ended", one.state) end
  end)

  it("hears the agent of a guest that runs on its own, not what nobody asked for", function()
    local vm <close>, linux = guest{ ("?"):rep(40), frame(END, 5), frame(READY, 0), frame(END, 1) }
    assert.equal("halt", (vm:run{ deadline = 20 })) -- rings four times
    assert.match("the guest has ended: halt", message(linux.sh, linux, "true"))
  end)

  it("renews a machine when it runs next, whatever for", function()
    local vm <close>, linux = guest{ frame(READY, 0), frame(END, 1), frame(DATA, 2, 0, "hello"),
                                     frame(END, 2) }
    linux:wait()
    local ready = assert(vm:snapshot())
    linux:renew{ clock = 1000000000, random = "first" }:renew{ clock = false, random = "second" }
    local bytes = ("<i8"):pack(1000000000) .. "secondfirst"
    assert.equal(bytes, vm.memory:read(abi.AGENT_WINDOW + 24, #bytes))
    assert(vm:restore(ready))
    assert.equal("hello", (linux:renew():sh "x"))
    assert(vm:restore(ready))
    assert.equal("halt", (linux:renew().vm:run{ deadline = 20 })) -- nobody waits for its answer
    local other <close>, second = guest{ frame(READY, 0), frame(END, 1, -1) }
    second:wait():renew()
    assert.match("could not renew the machine: Operation not permitted",
                 message(second.sh, second, "true"))
    assert.equal("ended", other.state)
  end)

  it("comes with a fork and a snapshot, also in a file, with all devices of the mode", function()
    local vm <close>, linux = guest{ frame(READY, 0), frame(DATA, 1, 0, "hello"), frame(END, 1) }
    linux:wait()
    local snap, path = assert(vm:snapshot()), os.tmpname()
    assert(snap:save(path))
    local loaded = assert(kvm.load_snapshot(path))
    os.remove(path)
    for i, other in ipairs{ assert(snap:vm{ echo = false }), assert(loaded:vm{ echo = false }),
                            assert(vm:fork()) } do
      assert.equal("hello", (other:linux():sh "hello"), i)
      local child <close> = assert(other:linux():fork())
      assert.match("the guest ended: halt", message(child.sh, child, "true"))
      other:close()
    end
    assert.equal("hello", (linux:sh "hello"))
  end)

  it("has an initramfs whose init becomes the agent", function()
    local bytes = assert(kvm.initrd{ agent = true, busybox = false })
    assert.truthy(bytes:find("exec /bin/minikvm-agent\n", 1, true))
    assert.truthy(bytes:find("bin/minikvm-agent\0", 1, true))
    assert.truthy(bytes:find(require "minikvm.linux.program", 1, true))
    local own = assert(kvm.initrd{ agent = true, busybox = false, init = "#!/bin/mine\n" })
    assert.is_nil(own:find("exec /bin/minikvm-agent\n", 1, true))
  end)
end)
