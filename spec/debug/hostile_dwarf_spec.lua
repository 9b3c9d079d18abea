-- Debugging information that is damaged: whatever a file holds, questions have an answer or say why
-- not, and end. Bytes and references of all its sections are changed at random, from fixed seeds.

local compile = require "support.compile"
local expression = require "minikvm.debug.expression"
local process = require "support.process"
local support = require "support.guest"

local SOURCE <const> = [[
struct list { struct list *next; int value[3]; enum { A, B = 7 } kind; union { int i; } u; };
static volatile int sink;
static inline __attribute__((always_inline)) int sum(struct list *l)
{
    int all = 0;
    for (int i = 0; i < 3; i++)
        all += l->value[i];
    return all;
}
__attribute__((noinline)) int walk(struct list *l, int depth)
{
    if (depth == 2)
        __asm__ volatile("outb %%al, $0xf4" :: "a"(depth));
    else
        sink += walk(l->next, depth + 1);
    return sum(l) + sink;
}
void _start(void)
{
    struct list a = { &a, { 1, 2, 3 }, B, { 5 } };
    sink = walk(&a, 0);
}
]]

---The sections with debugging information: { offset, size, name }.
local function sections_of(bytes)
  local wide = bytes:byte(5) == 2
  local shoff = (wide and "<I8" or "<I4"):unpack(bytes, wide and 0x29 or 0x21)
  local size, count, names = ("<I2I2I2"):unpack(bytes, wide and 0x3b or 0x2f)
  local function header(i)
    local at = shoff + i * size + 1
    if wide then
      local name, _, _, _, offset, length = ("<I4I4I8I8I8I8"):unpack(bytes, at)
      return name, offset, length
    end
    local name, _, _, _, offset, length = ("<I4I4I4I4I4I4"):unpack(bytes, at)
    return name, offset, length
  end
  local _, strings = header(names)
  local list = {}
  for i = 0, count - 1 do
    local name, offset, length = header(i)
    local text = ("z"):unpack(bytes, strings + name + 1)
    if (text:find "^%.debug" or text == ".eh_frame") and length > 8 then
      list[#list + 1] = { offset, length, text }
    end
  end
  return list
end

local function replace(bytes, at, part)
  return bytes:sub(1, at) .. part .. bytes:sub(at + #part + 1)
end

---The file with a few bytes, or references between entries, changed.
local function damage(bytes, sections)
  for _ = 1, math.random(3) do
    local s = sections[math.random(#sections)]
    if s[3] == ".debug_info" or math.random(3) == 1 then
      for _, one in ipairs(sections) do if one[3] == ".debug_info" then s = one end end
      local at = s[1] + math.random(0, s[2] - 4)
      bytes = replace(bytes, at, ("<I4"):pack(math.random(0, s[2] - 1)))
    else
      local at = s[1] + math.random(0, s[2] - 1)
      bytes = replace(bytes, at, string.char(math.random(0, 255)))
    end
  end
  return bytes
end

describe("damaged debugging information", function()
  if process.emulated then return pending "it is the same on every host, and slow there" end
  if support.without_kvm(pending) or compile.without_gcc(pending) then return end

  local folder
  setup(function() folder = compile.folder() end)
  teardown(function() folder.remove() end)

  ---Everything that can be asked of a guest that stopped.
  local function ask(vm)
    local calls = vm.cpu[0]:backtrace{ limit = 8 }
    assert.is_string(tostring(calls))
    for i = 0, math.min(#calls, 4) - 1 do assert.is_string(tostring(vm.cpu[0]:locals(i))) end
    for _, line in ipairs{ 5, 14, 22 } do
      local address = vm:address_of(("guest.c:%d"):format(line))
      if address then assert.is_string(tostring(vm:place_of(address))) end
    end
  end

  for _, flags in ipairs{ "-gdwarf-2 -O0 -m32", "-gdwarf-4 -O1", "-gdwarf-5 -O1" } do
    it("has an answer to each question: " .. flags, function()
      local path = compile.guest(folder, "guest.c", SOURCE, flags)
      local bytes = support.read_file(path)
      local sections = sections_of(bytes)
      local vm <close> = support.vm()
      assert(vm:load(path))
      assert.equal("exit", (vm:run{ deadline = 20 }))
      ask(vm)
      local first, second = table.unpack(vm.cpu[0]:backtrace())
      assert.is_true(first.symbol == "walk" or first.inlined and second.symbol == "walk")
      local file = path .. ".damaged"
      math.randomseed(#flags)
      for _ = 1, 40 do
        compile.write(folder, file:match "[^/]+$", damage(bytes, sections))
        assert(vm:load_symbols(file))
        ask(vm)
      end
      -- Cut short at a section, and one byte into it.
      for i, s in ipairs(sections) do
        compile.write(folder, file:match "[^/]+$", bytes:sub(1, s[1] + i % 2))
        vm:load_symbols(file)
        ask(vm)
      end
    end)
  end

  it("whose strings do not end is not used; symbols are", function()
    local path = compile.guest(folder, "guest.c", SOURCE, "-gdwarf-5 -O1")
    local bytes = support.read_file(path)
    for _, s in ipairs(sections_of(bytes)) do
      if s[3] == ".debug_line_str" then bytes = replace(bytes, s[1] + s[2] - 1, "x") end
    end
    local vm <close> = support.vm()
    assert(vm:load{ bytes = bytes })
    local _, why = vm:address_of "guest.c:12"
    assert.equal("guest.c:12: source lines are not known: a section of strings does not end with a "
                 .. "null byte", why)
    assert.equal("walk+0x1", tostring(vm:place_of(vm.symbols.walk + 1)))
  end)

  it("that says it unpacks to more than memory is not used", function()
    local bytes = support.read_file(compile.guest(folder, "guest.c", SOURCE, "-gdwarf-5 -O1 -gz"))
    for _, s in ipairs(sections_of(bytes)) do -- Elf64_Chdr: type, reserved, size
      if s[3] == ".debug_info" then bytes = replace(bytes, s[1] + 8, ("<I8"):pack(1 << 40)) end
    end
    local vm <close> = support.vm()
    assert(vm:load{ bytes = bytes })
    assert.equal("guest.c:12: source lines are not known: its packed sections are larger than"
                 .. " 1 GiB", (select(2, vm:address_of "guest.c:12")))
  end)

  it("whose .dwo file is gone, is another one, or no file, still has lines", function()
    local path = compile.guest(folder, "guest.c", SOURCE, "-gdwarf-5 -O0 -gsplit-dwarf")
    local pipe = assert(io.popen("ls " .. tostring(folder) .. "/*.dwo"))
    local dwo = pipe:read "l"
    pipe:close()
    for i, how in ipairs{ "true", "echo nothing >" .. dwo, "rm " .. dwo, "mkfifo " .. dwo } do
      assert(os.execute(how))
      local copied = path .. i -- what was opened once is not opened again
      assert(os.execute(("cp %s %s && echo %d >>%s"):format(path, copied, i, copied)))
      local vm <close> = support.vm()
      assert(vm:load(copied))
      vm:run{ deadline = 20 }
      local calls, locals = vm.cpu[0]:backtrace(), vm.cpu[0]:locals(0)
      assert.equal("guest.c", calls[2].file)
      assert.equal("walk", calls[2].symbol)
      if how == "true" then
        assert.equal(2, locals.depth.value)
      else
        assert.equal("its .dwo file is not there", tostring(locals))
      end
    end
  end)
end)

describe("a DWARF expression", function()
  local context = {
    bits = 64, register = function(n) return n < 4 and n * 100 or nil end,
    memory = function(address) return address < 1000 and address + 1 or nil end,
    cfa = function() return 500 end, frame_base = function() return 600 end,
    to_memory = function(address) return address + 7 end,
    entry_value = function(number) return number == 5 and 77 or nil end,
  }
  ---Operations with numbers, each { operation, number, number }, all of three bytes.
  local function evaluate(list, bits)
    local ops = {}
    for i, op in ipairs(list) do
      table.move({ op[1], op[2] or 0, op[3] or 0, (i - 1) * 3 }, 1, 4, #ops + 1, ops)
    end
    context.bits = bits or 64
    return expression.evaluate(ops, context)
  end
  local STACK_VALUE <const> = { 0x9f }

  ---DWARF 5, 2.5.1: what is left on the stack, of operations after constants.
  local function value(...)
    local at = assert(evaluate({ ... }))
    return at.value or at.address
  end

  it("calculates as the standard says", function()
    local c = function(n) return { 0x11, n } end -- DW_OP_consts
    assert.equal(7 + 0x1000, value({ 0x03, 0x1000 }))          -- addr
    assert.equal(43, value({ 0x03, 35 }, { 0x06 }))            -- deref
    assert.equal(200 - 8, value({ 0x72, -8 }))                 -- breg2
    assert.equal(604, value({ 0x91, 4 }))                      -- fbreg
    assert.equal(77, value({ 0xa3, 5 }, STACK_VALUE))          -- entry_value
    assert.equal(500, value({ 0x9c }))                         -- call_frame_cfa
    assert.equal(-3, value(c(-7), c(2), { 0x1b }, STACK_VALUE)) -- div is of signed integers
    assert.equal(1, value(c(-1), c(2), { 0x1d }, STACK_VALUE)) -- mod is of unsigned ones
    assert.equal(-2, value(c(-7), c(2), { 0x26 }, STACK_VALUE)) -- shra
    assert.equal(0, value(c(1), c(64), { 0x24 }, STACK_VALUE)) -- shl
    assert.equal(1, value(c(-2), c(1), { 0x2d }, STACK_VALUE)) -- lt
    assert.equal(5, value({ 0x35 }, { 0x28, 0 }, c(5), STACK_VALUE)) -- bra to what follows
    assert.equal(9, value(c(9), { 0x2f, 3 }, c(5), STACK_VALUE)) -- skip over one
    assert.equal(2, value(c(1), c(2), c(3), { 0x17 })) -- rot
    assert.equal(1, value(c(1), c(2), c(3), { 0x17 }, { 0x13 }))
    assert.equal(3, value(c(1), c(2), c(3), { 0x17 }, { 0x13 }, { 0x13 }))
    assert.equal(0xfffffff8, assert(evaluate({ { 0x70, -8 } }, 32)).address)
    assert.same({ kind = "register", number = 3 }, evaluate{ { 0x53 } })
    local pieces = assert(evaluate{ { 0x51 }, { 0x93, 4 }, { 0x93, 4 } }).pieces
    assert.same({ "register", "none", 4, 4 }, { pieces[1].kind, pieces[2].kind, pieces[1].size,
                                                pieces[2].size })
  end)

  it("that does not end, or lacks something, is an answer with a reason", function()
    local function why(...) return select(2, evaluate({ ... })) end
    assert.equal("its expression does not end", why({ 0x31 }, { 0x2f, -3 }))
    assert.equal("its expression is too deep", why({ 0x31 }, { 0x12 }, { 0x2f, -6 }))
    assert.equal("its expression is damaged", why({ 0x22 }))
    assert.equal("its expression is damaged", why({ 0x96 }))
    assert.equal("its expression is damaged", why({ 0x31 }, { 0x15, 200 }))
    assert.equal("its expression divides by zero", why({ 0x31 }, { 0x30 }, { 0x1b }))
    assert.equal("its expression divides by zero", why({ 0x31 }, { 0x30 }, { 0x1d }))
    assert.equal("in memory that is not mapped", why({ 0x10, 5000 }, { 0x06 }))
    assert.equal("in a register that was not kept", why({ 0x79, 0 }))
    assert.equal("optimized out", why({ 0xa3, 0 }))
    assert.equal("optimized out", why())
    assert.equal("in parts of a register", why({ 0x50 }, { 0x9d, 3 }))
  end)
end)
