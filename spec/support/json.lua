-- json.lua - what a command with --json printed, read by dkjson, which Busted has.

local assert = require "luassert"
local dkjson = require "dkjson"

---The one object that a command printed, which is all of stdout.
return function(r)
  assert.matches("^{[^\n]*}\n$", r.out)
  local object, last, why = dkjson.decode(r.out)
  assert(object, why)
  assert.equal(#r.out, last)
  return object
end
