-- JSON text as values (RFC 8259).

local json = require "minikvm.json"
local read = require "minikvm.json_read"

describe("json_read", function()
  it("reads what it writes, and what others write", function()
    local text = '{"a":[1,2.5,"x"],"b":[],"c":{},"d":null,"e":true}'
    assert.equal(text, json.encode(read.decode(text)))
    assert.same({ "é😀\u{fffd}/", -1, 1500.0 },
                { table.unpack(read.decode ' [ "\\u00e9\\ud83d\\ude00\\ud800\\/", -1 ,1.5e3]\n') })
  end)

  it("names the place and the reason of what it cannot read", function()
    for text, why in pairs{
      [""] = "byte 1: no value", ["{"] = "byte 2: expected a key in quotes",
      ['{"a" 1}'] = "byte 6: expected :", ["[1 2]"] = "byte 4: expected , or ]",
      ['{"a":1,}'] = "byte 8: expected a key in quotes",
      ['"x'] = "byte 3: a string without its end",
      ['"\1"'] = "byte 2: a control character", ['"\\x"'] = "byte 2: a wrong escape",
      ["01"] = "byte 1: no value", ["nul"] = "byte 1: no value",
      ["[1]x"] = "byte 4: something follows the value",
      [("["):rep(100000)] = "byte 65: more than 64 levels",
    } do
      assert.same({ nil, why }, { read.decode(text) })
    end
  end)
end)
