-- Lua values as flat bytes (lua/minikvm/copy.lua): what a snapshot's file and a worker get.

require "minikvm"
local copies = require "minikvm.copy"

local function copy(value)
  return copies.unpack(assert(copies.pack(value, "value")))
end

local function refusal(value)
  local packed, why, code = copies.pack(value, "value")
  assert.is_nil(packed)
  return why, code
end

describe("copied values", function()
  it("come back as they were", function()
    for _, value in ipairs { 0, -1, math.maxinteger, math.mininteger, 0.5, -0.0, 1 / 0, true, false,
                             "", "text", ("x"):rep(70000), "\0\255" } do
      assert.are.equal(value, copy(value))
      assert.are.equal(math.type(value), math.type(copy(value)))
    end
    assert.is_nil(copy(nil))
    local nan = copy(0 / 0)
    assert.is_true(nan ~= nan)
  end)

  it("are tables with any plain keys, and lists with holes", function()
    local value = { 1, nil, 3, { "a", { b = { true } } }, x = 1.5, [false] = "no", [2.5] = "half",
                    [-1] = "before", [1 << 40] = "far" }
    assert.are.same(value, copy(value))
    local list = {}
    for i = 1, 20000 do list[i] = i end
    assert.are.same(list, copy(list))
  end)

  it("are copied once for each place they appear in", function()
    local shared = { 1 }
    local two = copy { a = shared, b = shared }
    assert.are.same(two.a, two.b)
    assert.are_not.equal(two.a, two.b)
  end)

  it("are refused with the place where they cannot be copied", function()
    assert.are.equal("value: a function cannot be copied", (refusal(print)))
    assert.are.equal("value.list[2].deep: a function cannot be copied",
                     (refusal { list = { 1, { deep = print } } }))
    assert.are.equal("value[true][1.5]: a thread cannot be copied",
                     (refusal { [true] = { [1.5] = coroutine.create(print) } }))
    assert.are.equal("value.file: a userdata cannot be copied", (refusal { file = io.stdout }))
    assert.are.equal("value.at: a table with a metatable cannot be copied",
                     (refusal { at = setmetatable({}, {}) }))
    assert.are.equal("value[a table]: keys are strings, numbers or booleans",
                     (refusal { [{}] = 1 }))
    assert.are.equal("value.a\0b: a function cannot be copied", (refusal { ["a\0b"] = print }))
    local loop = { inner = { {} } }
    loop.inner[1].back = loop
    local why, code = refusal(loop)
    assert.are.equal("value.inner[1].back: a table that contains itself cannot be copied", why)
    assert.are.equal("EINVAL", code)
  end)

  it("have limits", function()
    local deep = {}
    for _ = 1, 98 do deep = { deep } end
    assert.are.same(deep, copy(deep))
    for _ = 1, 100000 do deep = { deep } end
    local why, code = refusal(deep)
    assert.matches("more than 100 tables one inside the other$", why)
    assert.are.equal("E2BIG", code)
    local big = ("x"):rep(40 << 20)
    assert.matches("^value%[2%]: it is larger than 64 MiB$", (refusal { big, big }))
    local doubling = { "leaf" }
    for _ = 1, 60 do doubling = { doubling, doubling } end
    assert.matches("it is larger than 64 MiB$", (refusal(doubling)))
  end)

  it("are refused when their bytes are malformed, wherever they are", function()
    local bytes = assert(copies.pack({ 1, "two", { three = 3.5, [false] = {} } }, "value"))
    for length = 0, #bytes - 1 do
      local value, why, code = copies.unpack(bytes:sub(1, length))
      assert.is_nil(value)
      assert.are.equal("a copied value is malformed", why)
      assert.are.equal("EBADMSG", code)
    end
    assert.is_nil(copies.unpack(bytes .. "\0"))
    for at = 1, #bytes do
      for _, byte in ipairs { 0, 1, 2, 3, 4, 5, 6, 7, 127, 128, 255 } do
        pcall(copies.unpack, bytes:sub(1, at - 1) .. string.char(byte) .. bytes:sub(at + 1))
      end
    end
    local nan_key = "\6\0\0\0\0\1\0\0\0" .. "\4" .. ("<d"):pack(0 / 0) .. "\1"
    assert.is_nil(copies.unpack(nan_key))
    assert.is_nil(copies.unpack("\6\255\255\255\255\255\255\255\255"))
    assert.is_nil(copies.unpack(("\6\1\0\0\0\0\0\0\0"):rep(100000)))
  end)
end)
