-- junit.lua - test results as JUnit XML, in the form that Ant's and Jenkins's schemas share
-- (spec/support/junit.xsd).

local legal = require("minikvm.test.text").legal

local M = {}

local HEADLINE <const> = 300 -- bytes

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;",
                   ["\n"] = "&#10;", ["\r"] = "&#13;", ["\t"] = "&#9;" }

local function escape(text)
  return (legal(text):gsub('[&<>"\r]', ENTITIES))
end

---For attributes, where line ends would become spaces.
local function attribute(text)
  return (legal(text):gsub('[&<>"\r\n\t]', ENTITIES))
end

---The beginning of the first line: what an overview has room for.
local function headline(text)
  return text:match("^[^\n]*"):sub(1, HEADLINE)
end

local function outcome(result)
  if result.status == "skip" then
    return ('<skipped message="%s"/>'):format(attribute(result.message))
  elseif result.status == "pass" then
    return nil
  end
  local element = result.status == "fail" and "failure" or "error"
  local text = (result.where ~= "" and result.where .. "\n" or "") .. result.message
  if result.kept then text = text .. "\n" .. result.kept end
  return ('<%s type="%s" message="%s">%s</%s>'):format(
    element, element, attribute(headline(result.message)), escape(text), element)
end

local function testcase(result, class)
  local head = ('    <testcase name="%s" classname="%s" time="%.6f"'):format(
    attribute(result.name), attribute(class), result.seconds)
  local inside = outcome(result)
  return inside and ("%s>%s</testcase>"):format(head, inside) or head .. "/>"
end

local function suite(task, id, state)
  local counts, lines = { pass = 0, fail = 0, error = 0, skip = 0 }, {}
  local class = task.path:gsub("%.lua$", ""):gsub("^%./", ""):gsub("[/.]", "_")
  local name = task.path .. (state.o["repeat"] > 1 and " (run " .. task.run .. ")" or "")
  for i, result in ipairs(task.results) do
    counts[result.status] = counts[result.status] + 1
    lines[i] = testcase(result, class)
  end
  local head = ('  <testsuite name="%s" id="%d" package="%s" timestamp="%s" hostname="%s" '
    .. 'tests="%d" failures="%d" errors="%d" skipped="%d" time="%.3f">'):format(
    attribute(name), id, attribute(class), os.date("!%Y-%m-%dT%H:%M:%S", state.time),
    attribute(M.hostname()), #task.results, counts.fail, counts.error, counts.skip, task.seconds)
  local bad = counts.fail + counts.error > 0
  table.insert(lines, 1, head .. "\n    <properties/>")
  lines[#lines + 1] = ("    <system-out>%s</system-out>\n    <system-err/>\n  </testsuite>"):format(
    bad and escape(task.tail) or "")
  return table.concat(lines, "\n")
end

---@return string
function M.hostname()
  local file = io.open "/proc/sys/kernel/hostname"
  local name = file and file:read "l"
  if file then file:close() end
  return name ~= nil and name ~= "" and name or "localhost"
end

---The whole document, files in the order of their names.
---@param state table  of the runner, all files ended
---@return string
function M.document(state)
  local tasks = require("minikvm.test.results").in_order(state.ended)
  local parts = { '<?xml version="1.0" encoding="UTF-8"?>', "<testsuites>" }
  for i, task in ipairs(tasks) do parts[#parts + 1] = suite(task, i - 1, state) end
  parts[#parts + 1] = "</testsuites>\n"
  return table.concat(parts, "\n")
end

---Writes the document as core.write_file does: links, FIFOs and devices stay what they are.
---@param path string
---@param state table
---@return boolean? done
---@return string? why
function M.write(path, state)
  local done, why = require("minikvm.core").write_file(path, M.document(state))
  return done, why
end

return M
