-- results.lua - what the files of a run came to, for those who report it: the runner's tasks and
-- their results (task.lua).

local M = {}

---@param result minikvm.result
function M.is_bad(result) return result.status == "fail" or result.status == "error" end

---Counts of one file, or of several.
---@param tasks minikvm.task[]
---@return { pass: integer, bad: integer, skip: integer }
function M.count(tasks)
  local n = { pass = 0, bad = 0, skip = 0 }
  for _, task in ipairs(tasks) do
    for _, result in ipairs(task.results) do
      local kind = M.is_bad(result) and "bad" or result.status
      n[kind] = n[kind] + 1
    end
  end
  return n
end

---The files in the order of their names, each in that of its runs.
---@param tasks minikvm.task[]
---@return minikvm.task[]
function M.in_order(tasks)
  local sorted = table.move(tasks, 1, #tasks, 1, {})
  table.sort(sorted, function(a, b)
    if a.path ~= b.path then return a.path < b.path end
    return a.run < b.run
  end)
  return sorted
end

return M
