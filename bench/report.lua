-- report.lua - what the benches share: repetitions, medians, and lines that compare with a target.

local kvm = require "minikvm"

local M = { missed = 0 }

M.bare = assert(os.getenv "BENCH_BARE", "start it by tools/bench")
M.minikvm = assert(os.getenv "BENCH_MINIKVM", "start it by tools/bench")

---Quartiles of a list of numbers.
---@param list number[]
---@return { low: number, median: number, high: number, min: number }
function M.quartiles(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local function at(part) return sorted[math.floor(part * (#sorted - 1) + 0.5) + 1] end
  return { low = at(0.25), median = at(0.5), high = at(0.75), min = sorted[1] }
end

---Runs every case in turn, `rounds` times, so that what disturbs the machine disturbs them alike.
---@param rounds integer
---@param cases { name: string, run: fun(): number }[]  run returns what was measured
---@return table<string, number[]> by_name
function M.interleave(rounds, cases)
  local results = {}
  for _, case in ipairs(cases) do results[case.name] = {} end
  for _ = 1, rounds do
    for _, case in ipairs(cases) do
      collectgarbage()
      table.insert(results[case.name], case.run())
    end
  end
  return results
end

---Round by round a[i] / b[i].
function M.ratios(a, b)
  local list = {}
  for i = 1, #a do list[i] = a[i] / b[i] end
  return list
end

---All numbers that a command prints.
function M.numbers(command)
  local list = {}
  local pipe = assert(io.popen(command))
  for number in pipe:lines "n" do list[#list + 1] = number end
  assert(pipe:close(), command)
  return list
end

function M.title(what)
  print(("== %s (host: %s)"):format(what, kvm.probe().host))
end

---One line: the median of `list` times `scale`, its quartiles, and the target, if there is one,
---with the verdict. `limit` is the most that is allowed, or, negative, the least.
function M.line(name, list, unit, scale, limit)
  local q = M.quartiles(list)
  local median, verdict = q.median * scale, ""
  if limit then
    local reached = limit < 0 and median >= -limit or limit >= 0 and median <= limit
    verdict = ("%s %g: %s"):format(limit < 0 and ">=" or "<=", math.abs(limit),
                                   reached and "reached" or "MISSED")
    if not reached then M.missed = M.missed + 1 end
  end
  print(("  %-50s %9.3f %-5s [%.3f .. %.3f] %s"):format(name, median, unit, q.low * scale,
                                                        q.high * scale, verdict))
end

return M
