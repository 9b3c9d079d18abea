-- cli/say.lua - what the command line says beside a guest's output: lines on stderr that begin with
-- the program's name, kept for --json.

local M = {}

---Loaded when a line is said: most runs say none.
local function painter()
  return require("minikvm.cli.style").painter(require("minikvm.core").process().errors)
end

---What was said so far.
---@type string[]
M.said = {}

---Says a line: "minikvm: hello: why".
---@param ... string  what it is about, and what there is to say
function M.complain(...)
  local text = table.concat({ ... }, ": ")
  M.said[#M.said + 1] = text
  io.stderr:write(painter()("bold", "minikvm:"), " ", text, "\n")
end

return M
