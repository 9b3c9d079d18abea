-- Basic blocks: what is taken for code and what is not (lua/minikvm/debug/blocks.lua). Opcodes:
-- Intel SDM volume 2.

require "minikvm" -- first: it brings the parts
local blocks = require "minikvm.debug.blocks"
local support = require "support.guest"

local BASE <const> = 0x1000

---Blocks of a listing at BASE as text: "1000+3 branch 1008", in the order of addresses.
local function found(listing, o)
  local code = { address = BASE, bytes = support.bytes(listing), code = true }
  local b = blocks.find{ bits = o and o.bits or 32, entries = o and o.entries or { BASE },
                         functions = o and o.functions, labels = o and o.labels,
                         sections = { code, o and o.data } }
  local kinds, lines = { [0] = "next", "jump", "branch", "stop" }, {}
  for i = 1, b.count do
    lines[i] = ("%x+%d %s%s%s"):format(b.address[i], b.size[i], kinds[b.kind[i]],
      b.target[i] ~= 0 and (" %x"):format(b.target[i]) or "", b.shared[i] and " shared" or "")
  end
  return lines, b
end

describe("basic blocks", function()
  it("end at jumps, branches and returns, and before what one leads to; calls end none", function()
    assert.same({ "1000+4 branch 100b", "1004+7 jump 100d", "100b+2 stop", "100d+2 stop" }, (found[[
      85c0          ; test eax, eax
      7407          ; jz 100b
      e804000000    ; call 100d
      eb02          ; jmp 100d
      ffe0          ; jmp eax
      40 c3         ; inc eax; ret]]))
  end)

  it("are cut where a loop begins; conditions are those of the opcodes", function()
    local lines, b = found[[
      40            ; inc eax
      41            ; 1001: inc ecx
      e2fd          ; loop 1001
      0f85f7ffffff  ; jnz 1001
      67e3f4        ; jcxz 1001
      c3            ; ret]]
    assert.same({ "1000+1 next", "1001+3 branch 1001", "1004+6 branch 1001", "100a+3 branch 1001",
                  "100d+1 stop" }, lines)
    assert.same({ 0, 18 | 4 << 8, 5, 19 | 2 << 8, 0 }, b.condition)
  end)

  it("lie where a jump table leads; the table is no code", function()
    local code = [[
      ff248507100000         ; jmp [eax*4+1007]
      0f100000 10100000      ; a table in the code
      40                     ; 100f: inc eax, and on into the next case
      c3                     ; 1010: ret]]
    local want = { "1000+7 stop", "100f+1 next", "1010+1 stop" }
    assert.same(want, (found(code)))
    assert.same(want, (found(code, { functions = { { address = BASE, size = 17 } } })))
  end)

  it("lie where a table among the data leads", function()
    assert.same({ "1000+7 stop", "1007+1 stop", "1008+1 stop" }, (found(
      "ff248500200000 c3 c3",
      { data = { address = 0x2000, bytes = ("<I4I4I4"):pack(0x1007, 0x1008, 5) } })))
  end)

  it("are not where the code reads data, nor behind a return that no symbol covers", function()
    local code = [[
      a106100000    ; mov eax, [1006]
      c3            ; ret
      74027402      ; data that would be two branches]]
    assert.same({ "1000+6 stop" }, (found(code)))
    assert.same({ "1000+6 stop" }, (found(code, { functions = { { address = BASE, size = 10 } } })))
  end)

  it("are not where the bytes behind a call turn out to be no instructions", function()
    assert.same({ "1000+5 next", "1009+1 stop" }, (found[[
      e804000000    ; call 1009
      40410f04      ; two that might be some, and a byte that begins none
      c3            ; 1009: ret]]))
  end)

  it("are not behind a call of what takes its return address off the stack", function()
    assert.same({ "1000+5 stop", "1008+2 stop" }, (found([[
      e803000000    ; call 1008
      747000        ; "tp": would be a branch
      58            ; 1008: pop eax
      c3            ; ret]], { functions = { { address = BASE, size = 10 } } })))
    assert.same({ "1000+6 stop", "1006+4 stop" }, (found[[
      e801000000    ; call 1006, which only tells where it was called from
      c3            ; ret
      8b0424        ; 1006: mov eax, [esp]
      c3            ; ret]]))
    assert.same({ "1000+5 next", "1005+2 stop" }, (found[[
      e800000000    ; call of what follows, to know where that is
      58            ; 1005: pop eax
      c3            ; ret]]))
  end)

  it("in a function that has a size are found without a jump to them; padding is none", function()
    assert.same({ "1000+2 stop", "1009+2 stop" }, (found([[
      ffe0          ; jmp eax
      8db600000000  ; lea esi, [esi+0]
      90            ; nop
      40c3          ; 1009: inc eax; ret]], { functions = { { address = BASE, size = 11 } } })))
  end)

  it("begin at labels that lead to code or to one another; others may be data", function()
    local lines, b = found([[
      c3            ; 1000: ret
      6a00 ebfb     ; 1001: push 0; jmp 1000
      6a01 eb04     ; 1005: push 1; jmp 100d
      74616774      ; 1009: a text
      40 c3         ; 100d: inc eax; ret]], { labels = {
        { address = 0x1001, name = "one" }, { address = 0x1005, name = "two" },
        { address = 0x1009, name = "text" }, { address = 0x100d, name = "common" } } })
    assert.same({ "1000+1 stop", "1001+4 jump 1000", "1005+4 jump 100d", "100d+2 stop" }, lines)
    assert.same({ "one", "two" }, { b.functions[1].name, b.functions[2].name })
  end)

  it("inside another instruction are known as such", function()
    assert.same({ "1000+2 branch 1003", "1002+5 stop", "1003+4 stop shared" }, (found[[
      7401          ; jz 1003
      f00fc101      ; 1002: lock xadd [ecx], eax; 1003: xadd [ecx], eax
      c3            ; ret]]))
  end)

  it("end where the code does, in the middle of an instruction, too", function()
    assert.same({}, (found "b80000"))
    assert.same({ "1000+2 next" }, (found "faf4"), "cli; hlt")
    assert.same({ "1000+2 next" }, (found "faf4 0f04"), "cli; hlt and what is no instruction")
    assert.same({ "1000+2 branch 1080" }, (found "747e"))
  end)

  it("of 16 and 64 bits follow the addresses of these", function()
    assert.same({ "1000+3 jump 1004", "1004+1 stop" }, (found("e90100 90 c3", { bits = 16 })))
    assert.same({ "1000+6 stop", "1006+1 stop" }, (found(
      "ff2500000000 c3 90", { bits = 64, entries = { BASE },
                              functions = { { address = BASE, size = 7 } } })))
  end)

  it("of 1K OS are what objdump disassembles, byte for byte", function()
    local path = "os-1k/build/kernel.elf"
    local file = io.open(path, "rb")
    local objdump = io.popen("objdump -d -w " .. path .. " 2>/dev/null"):read "a"
    if not file or objdump == "" then return pending "needs objdump and 1K OS's kernel.elf" end
    local starts, bytes = {}, file:read "a"
    file:close()
    for address, code in objdump:gmatch "\n%s*(%x+):\t([%x ]+)" do
      starts[tonumber(address, 16)] = #code:gsub("%s", "") // 2
    end
    local b = blocks.of({ name = path, bytes = bytes, size = #bytes, head = bytes:sub(1, 8192),
                          read = function(s, at, n) return s.bytes:sub(at + 1, at + n) end }, 0,
                        { labels = true })
    local code = 0
    for i = 1, b.count do
      local at, last = b.address[i], nil
      while at < b.address[i] + b.size[i] do
        assert(starts[at], ("%x begins no instruction"):format(at))
        last, at = at, at + starts[at]
      end
      assert.equal(b.last[i], last)
      assert.equal(b.address[i] + b.size[i], at)
      code = code + b.size[i]
    end
    local all = 0
    for _, size in pairs(starts) do all = all + size end
    assert.equal(all, code) -- it has no padding, compiled for size
  end)
end)
