-- html.lua - `minikvm test --html DIR`: the results of a suite as one page, DIR/index.html, and how
-- earlier runs went, DIR/history.json.
--
-- The page (html_page.lua) is whole in itself: it asks nobody for anything. All that it shows is in
-- it as JSON, of which its script makes text, never markup. What is kept of failed tests (keep.lua)
-- goes into it up to BUDGET bytes: of each failure as much as there is room for, with the middle
-- left out and said so. Names and messages may hold any bytes.

local base64 = require "minikvm.base64"
local core = require "minikvm.core"
local json = require "minikvm.json"
local results_of = require "minikvm.test.results"
local text_of = require "minikvm.test.text"

local M = {}

local is_bad <const> = results_of.is_bad

local PAGE <const> = 4800 << 10 -- bytes of the data
local BUDGET <const> = 3400 << 10 -- of them, of what was kept, before they are written as JSON
local SHARE <const>, LEAST <const> = 96 << 10, 1 << 10 -- of one failure
local NAME <const>, MESSAGE <const> = 240, 4096
local RUNS <const>, BAD <const> = 60, 40 -- of the history: runs, and failed tests named of each
local MARK <const> = '<meta name="generator" content="minikvm test --html">'
local NEW <const> = "another page, not a report of minikvm test: name an empty or a new folder"

-- ---- the folder ----

local function read_file(path, most)
  local file <close> = io.open(path, "rb")
  return file and file:read(most or "a") or nil
end

---Makes the folder, if it is not there, and sees that a report can be written to it.
---@param folder string
---@return boolean? ready
---@return string? why
function M.open(folder)
  local made, why = require("minikvm.folder").make(folder)
  if not made then return nil, why end
  local page = folder .. "/index.html"
  local head = read_file(page, 4096)
  if head and head ~= "" and not head:find(MARK, 1, true) then
    return nil, ("%s: this is %s"):format(page, NEW)
  end
  local probe = ("%s/.%d.tmp"):format(folder, core.process().pid or os.time())
  local file
  file, why = io.open(probe, "wb")
  if not file then return nil, (why:gsub(probe:gsub("%p", "%%%0"), folder)) end
  file:close()
  os.remove(probe)
  return true
end

-- ---- earlier runs ----

---@class minikvm.html.run
---@field time integer  seconds since 1970
---@field seconds number
---@field pass integer
---@field bad integer
---@field skip integer
---@field failed string[]  keys of the first failed tests

local function is_run(run)
  for _, field in ipairs{ "time", "seconds", "pass", "bad", "skip" } do
    if type(run) ~= "table" or type(run[field]) ~= "number" then return false end
  end
  if type(run.failed) ~= "table" then return false end
  for _, key in ipairs(run.failed) do
    if type(key) ~= "string" then return false end
  end
  return true
end

---The runs that the folder knows of. A file that is damaged is put aside.
---@return minikvm.html.run[]
---@return string? why  it begins anew
local function read_history(path)
  local text = read_file(path)
  if not text then return {} end
  local runs, why = require("minikvm.json_read").decode(text)
  if type(runs) == "table" and type(runs.runs) == "table" then
    local good = {}
    for _, run in ipairs(runs.runs) do
      if is_run(run) then good[#good + 1] = run end
    end
    if #good == #runs.runs then return good end
  end
  os.rename(path, path .. ".damaged")
  return {}, ("%s: %s; it is kept as %s.damaged, and the trend begins anew"):format(
    path, why or "it is no history of runs", path)
end

---What a test is known by from run to run.
local function key_of(result)
  return text_of.legal(result.file:sub(1, NAME) .. ": " .. result.name:sub(1, NAME))
end

---This run, as the history has it.
local function this_run(state, results)
  local n, failed = results_of.count(state.ended), json.list{}
  for _, result in ipairs(results) do
    if is_bad(result) and #failed < BAD then failed[#failed + 1] = key_of(result) end
  end
  return { time = state.time, seconds = state.seconds, pass = n.pass, bad = n.bad, skip = n.skip,
           failed = failed }
end

---Files of a run that were not tested were passed by: only what was run is a part of the trend.
local function add_run(runs, run)
  for _, one in ipairs(runs) do json.list(one.failed) end
  runs[#runs + 1] = run
  return table.move(runs, math.max(1, #runs - RUNS + 1), #runs, 1, {})
end

-- ---- what was kept of a failure ----

---A file at its beginning, and its size; nil where there is none.
local function open_sized(path)
  local file = io.open(path, "rb")
  local size = file and file:seek "end"
  if size then file:seek("set", 0) end
  return file, size
end

---A text of at most so many bytes; of a long file only the two ends are read.
local function read_ends(path, most)
  local file <close>, size = open_sized(path)
  if not size then return nil end
  if size <= most then return text_of.legal(file:read "a") end
  local half = most // 2
  local first = file:read(half)
  file:seek("set", size - half)
  return text_of.legal(text_of.between(first, size - 2 * half, file:read(half)))
end

---The waits in a console's log: { from, to, words }, in order; and those that did not come.
local function read_waits(path)
  local came, missed = {}, json.list{}
  for line in (read_file(path, 1 << 20) or ""):gmatch "[^\n]+" do
    local from, to, words = line:match "^(%d+) (%d+) (.*)$"
    if from then
      came[#came + 1] = { math.tointeger(from), math.tointeger(to), words }
    elseif line:sub(1, 4) == "- - " then
      missed[#missed + 1] = text_of.legal(line:sub(5, 5 + MESSAGE))
    end
  end
  return came, missed
end

---The end of a log in pieces, { text } or { text, what waited for it }.
local function in_pieces(text, offset, waits)
  local pieces, at = json.list{}, offset -- bytes of the log before what follows
  local function add(to, words)
    if to > at then
      pieces[#pieces + 1] = json.list{ text_of.legal(text:sub(at - offset + 1, to - offset)),
                                       words }
      at = to
    end
  end
  for _, wait in ipairs(waits) do
    if wait[1] >= at then
      add(wait[1])
      add(wait[2], text_of.legal(wait[3]))
    end
  end
  add(offset + #text)
  return pieces
end

---The log as pieces; of a long one the two ends.
local function read_console(path, most, waits)
  local file <close>, size = open_sized(path)
  if not size or size == 0 then return json.list{} end
  if size <= most then return in_pieces(file:read "a", 0, waits) end
  local half = most // 2
  local pieces = in_pieces(file:read(half), 0, waits)
  pieces[#pieces + 1] = json.list{ text_of.between("", size - 2 * half, "") }
  file:seek("set", size - half)
  for _, piece in ipairs(in_pieces(file:read(half), size - half, waits)) do
    pieces[#pieces + 1] = piece
  end
  return pieces
end

---Pieces that several failures share are in the page once: a place in `state.shared`.
local function share(book, value)
  if not value then return nil end
  local place = book.places[value]
  if place then return place end
  book.left = book.left - #value
  book.shared[#book.shared + 1] = value
  book.places[value] = #book.shared - 1
  return #book.shared - 1
end

local function read_picture(book, path, room)
  local bytes = read_file(path)
  if not bytes then return nil end
  local text = base64.encode(bytes)
  if not book.places[text] and #text > room then return nil end
  return share(book, text)
end

---The last lines of a log.
local function read_last(path, most)
  local file <close>, size = open_sized(path)
  if not size then return nil end
  file:seek("set", math.max(0, size - most))
  if size > most then file:read "l" end
  return text_of.legal(file:read "a" or "")
end

---A VM's folder, in at most so many bytes.
local function read_vm(book, path, name, room)
  local waits, missed = read_waits(path .. "/waits.txt")
  local function text(file, part)
    local there = read_ends(path .. "/" .. file, room // part)
    return share(book, there and there:gsub("%s+$", ""))
  end
  local console = read_console(path .. "/console.log", room // 4, waits)
  for _, piece in ipairs(console) do book.left = book.left - #piece[1] - #(piece[2] or "") end
  return { name = text_of.legal(name), cause = text("cause.txt", 16), stack = text("stack.txt", 12),
           picture = read_picture(book, path .. "/screen.png", room // 2),
           screen = text("screen.txt", 8), registers = text("registers.txt", 8),
           files = text("files.txt", 16), total = text("console-total.txt", 16),
           exits = share(book, read_last(path .. "/exits.log", room // 6)),
           console = console, missed = missed }
end

local function folders_in(path)
  local lfs, names = require "lfs", {}
  for name in lfs.dir(path) do
    if not name:find "^%." and lfs.attributes(path .. "/" .. name, "mode") == "directory" then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  return names
end

---What was kept of a failure, for the page; nil when nothing was, or it is gone.
local function read_kept(book, folder, room)
  local fine, names = pcall(folders_in, folder)
  if not fine then return nil end
  local vms = json.list{}
  for _, name in ipairs(names) do
    if book.left < room // 4 then break end
    vms[#vms + 1] = read_vm(book, folder .. "/" .. name, name, room // #names)
  end
  return { vms = vms, left_out = #names - #vms,
           command = share(book, read_ends(folder .. "/reproduce.sh", 2048)) }
end

-- ---- the page ----

local STATUS <const> = { pass = 0, fail = 1, error = 2, skip = 3 }

---A text of a result for the page, "" as null.
local function field(text, most)
  return text and text ~= "" and text_of.legal(text_of.cut(text, most)) or json.null
end

---One test: its place in a list says what a field is, which saves their names.
local function row_of(book, result)
  local room = math.max(LEAST, math.min(SHARE, book.left // math.max(1, book.failures)))
  local message, detail = field(result.message, math.min(MESSAGE, room // 3)), nil
  if is_bad(result) then
    book.left = book.left - (message ~= json.null and #message or 0)
    detail = result.folder and read_kept(book, result.folder, room * 2 // 3)
    book.failures = book.failures - 1
  end
  return json.list{ STATUS[result.status], text_of.legal(text_of.cut(result.name, NAME)),
                    book:file(result.file), math.floor(result.seconds * 1e6) / 1e6, result.run,
                    field(result.where, NAME), message, field(result.kept, MESSAGE),
                    detail or json.null }
end

local function new_book(budget, failures)
  local book = { left = budget, failures = failures, shared = json.list{}, places = {},
                 files = json.list{}, numbers = {} }
  function book.file(_, path)
    if not book.numbers[path] then
      book.files[#book.files + 1] = text_of.legal(path:sub(1, 4 * NAME))
      book.numbers[path] = #book.files - 1
    end
    return book.numbers[path]
  end
  return book
end

---All results, files in the order of their names.
local function all_results(state)
  local list = {}
  for _, task in ipairs(results_of.in_order(state.ended)) do
    table.move(task.results, 1, #task.results, #list + 1, list)
  end
  return list
end

---The data of the page, with so much of what was kept.
local function data_of(state, results, runs, budget)
  local rows, book = json.list{}, new_book(budget, runs[#runs].bad)
  for i, result in ipairs(results) do rows[i] = row_of(book, result) end
  local note = state.interrupted and "interrupted by " .. state.interrupted
    or state.bailed and "stopped by --bail"
  local text = json.encode{ tests = rows, files = book.files, shared = book.shared,
                            runs = json.list(runs), note = note or json.null,
                            host = text_of.legal(require("minikvm.test.junit").hostname()) }
  return (text:gsub("<", "\\u003c")) -- what would end the element that it is in
end

---The page of a run that is over.
---@param state table  of the runner
---@param results minikvm.result[]
---@param runs minikvm.html.run[]  this one last
---@return string
function M.document(state, results, runs)
  local budget = BUDGET
  local data = data_of(state, results, runs, budget)
  while #data > PAGE and budget > LEAST do
    budget = budget // 2
    data = data_of(state, results, runs, budget)
  end
  return require("minikvm.test.html_page").of(MARK, data)
end

---Writes the page and the history.
---@param folder string
---@param state table  of the runner
---@return boolean? done
---@return string? why
---@return string? note  for people
function M.write(folder, state)
  local path = folder .. "/history.json"
  local results = all_results(state)
  local runs, note = read_history(path)
  runs = add_run(runs, this_run(state, results))
  local done, why = core.write_file(folder .. "/index.html", M.document(state, results, runs))
  if done then done, why = core.write_file(path, json.encode{ runs = json.list(runs) } .. "\n") end
  return done, why, note
end

return M
