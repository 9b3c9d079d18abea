-- workers.lua - two VMs whose handlers are heavy in Lua: as two workers, against one.
--
-- A guest makes OUTs; each is answered by a handler that computes for a while. Without workers the
-- two would take turns. The fastest of several short rounds counts: what else the machine does is
-- not of interest.

local kvm = require "minikvm"
local report = require "report"

local ROUNDS <const>, OUTS <const> = 25, 1000

local function serve(me, outs)
  local vm <close> = require("minikvm").vm{ echo = false }
  vm:load{ bytes = "\xb9" .. ("<I2"):pack(outs) .. "\xe6\x80\xe2\xfc\xf4" } -- outs times out 0x80
  local sum = 0
  vm.ports:on(0x80, { write = function(_, value)
    for i = 1, 1000 do sum = (sum + i * value) & 0xffff end
  end })
  while me:receive() do
    local _, info = vm:reset():run()
    me:send(info.seconds)
  end
end

---Seconds of one round with these workers: of the slowest of them.
local function round(workers)
  for _, w in ipairs(workers) do w:send(true) end
  local slowest = 0
  for _, w in ipairs(workers) do slowest = math.max(slowest, (assert(w:receive()))) end
  return slowest
end

report.title "workers"
local one = { assert(kvm.worker(serve, OUTS)) }
local two = { one[1], assert(kvm.worker(serve, OUTS)) }
local results = report.interleave(ROUNDS, {
  { name = "one", run = function() return round(one) end },
  { name = "two", run = function() return round(two) end },
})
local best = { one = report.quartiles(results.one).min, two = report.quartiles(results.two).min }
report.line("one worker: handlers per second", { OUTS / best.one }, "k/s", 1e-3)
report.line("two workers: handlers per second", { 2 * OUTS / best.two }, "k/s", 1e-3)
report.line("two against one (best of " .. ROUNDS .. ")", { 2 * best.one / best.two }, "x", 1, -1.8)
for _, w in ipairs(two) do w:close() end
report.finish()
