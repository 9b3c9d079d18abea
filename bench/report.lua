-- report.lua - what the benches share: repetitions, medians, and lines that compare with a target.
-- With BENCH_JSON set (tools/bench --json) they are one JSON object for each bench (docs/json.md).

local kvm = require "minikvm"
local json = require "minikvm.json"

local M = { missed = 0 }

local as_json = os.getenv "BENCH_JSON"
local figures, title, note = {}, nil, nil

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

---Round by round a[i] - b[i].
function M.differences(a, b)
  local list = {}
  for i = 1, #a do list[i] = a[i] - b[i] end
  return list
end

---Round by round a[i] + b[i].
function M.sums(a, b)
  local list = {}
  for i = 1, #a do list[i] = a[i] + b[i] end
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

---Begins a part of the bench.
function M.title(what)
  title, note = what, nil
  if not as_json then print(("== %s (host: %s)"):format(what, kvm.probe().host)) end
end

---A line of text between figures: what those behind it are about.
function M.note(text)
  note = text:match "^%s*(.-)%s*$"
  if not as_json then print(text) end
end

local function keep(about, name, unit, q, scale, limit, reached)
  figures[#figures + 1] = {
    title = title, note = about, name = name, unit = unit, median = q.median * scale,
    low = q.low * scale, high = q.high * scale, reached = reached,
    most = limit and limit >= 0 and limit or nil, least = limit and limit < 0 and -limit or nil,
  }
end

---A figure that stands in a table of the bench's own.
function M.figure(name, value, unit)
  if as_json then keep(nil, name, unit, { median = value, low = value, high = value }, 1) end
end

---One line: the median of `list` times `scale`, its quartiles, and the target, if there is one,
---with the verdict. `limit` is the most that is allowed, or, negative, the least.
function M.line(name, list, unit, scale, limit)
  local q = M.quartiles(list)
  local median, verdict, reached = q.median * scale, "", nil
  if limit then
    reached = limit < 0 and median >= -limit or limit >= 0 and median <= limit
    verdict = ("%s %g: %s"):format(limit < 0 and ">=" or "<=", math.abs(limit),
                                   reached and "reached" or "MISSED")
    if not reached then M.missed = M.missed + 1 end
  end
  if as_json then return keep(note, name, unit, q, scale, limit, reached) end
  print(("  %-50s %9.3f %-5s [%.3f .. %.3f] %s"):format(name, median, unit, q.low * scale,
                                                        q.high * scale, verdict))
end

---Ends the bench, and the process: with status 1 when a figure was missed.
---@param left_out? string  why there are no figures
function M.finish(left_out)
  local name = arg[0]:match "([^/]*)%.lua$"
  if as_json then
    print(json.encode{ bench = name, host = kvm.probe().host, missed = M.missed,
                       left_out = left_out, figures = json.list(figures) })
  elseif left_out then
    print(("== %s: left out: %s"):format(name, left_out))
  end
  os.exit(M.missed == 0, true)
end

return M
