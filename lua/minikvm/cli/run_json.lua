-- cli/run_json.lua - what minikvm run --json prints: one JSON object when all VMs have ended. Its
-- shape is described in docs/json.md.

local json = require "minikvm.json"
local say = require "minikvm.cli.say"

local M = {}

local WORDS <const> = { "reason", "text", "code", "exits", "entries", "assists", "bytes", "place",
                        "report", "traceback", "waiting", "seconds" }

---What vm:run() tells of a VM, or of one of its vCPUs.
local function plain(info)
  local entry = { rip = json.hex(info.rip), by = info.by, served = info.served }
  for _, word in ipairs(WORDS) do entry[word] = info[word] end
  if info.interrupts then entry.interrupts = json.list{ table.unpack(info.interrupts) } end
  return entry
end

local function registers_of(vm, i)
  local ok, list = pcall(function() return vm.cpu[i]:registers() end)
  if not ok then return nil end
  local texts = {}
  for name, value in pairs(list) do
    if math.type(value) == "integer" and name ~= "bits" then texts[name] = json.hex(value) end
  end
  return texts
end

local function cpus_of(vm, info)
  local list, i = {}, 0
  while info.cpu and info.cpu[i] do
    list[i + 1] = plain(info.cpu[i])
    list[i + 1].registers = registers_of(vm, i)
    i = i + 1
  end
  return json.list(list)
end

---A VM that ran, while it is not closed yet.
---@param vm minikvm.vm
---@param reason string?  what vm:run() returned
---@param info table|string?  without a reason: why, unless that was said
---@param stats boolean?  the table of --stats, too
---@return table
function M.entry(vm, reason, info, stats)
  local entry = reason and plain(info)
    or { error = type(info) == "string" and info or say.said[#say.said] }
  entry.name, entry.mode, entry.reason = vm.name, vm.mode, reason or json.null
  entry.cpus = reason and cpus_of(vm, info)
  if vm.state ~= "closed" then
    entry.output, entry.output_bytes = vm.console:text()
    if stats then entry.stats = require("minikvm.vm.stats").plain(vm:stats()) end
  end
  return entry
end

---A VM that did not run: the image that could not be loaded is behind those that were.
local function left_out(opts, i, loaded, status)
  local failed = i == loaded + 1
  return { name = opts.names[i], reason = json.null, status = failed and status or 0,
           error = failed and say.said[#say.said] or "it was not run" }
end

---Prints the document.
---@param opts table  of minikvm run; opts.entries: what entry() made, by VM
---@param vms minikvm.vm[]  of the first images, as many as were loaded
---@param status integer  of the process
function M.print(opts, vms, status)
  local list = {}
  for i, path in ipairs(opts.guests) do
    local entry = opts.entries[vms[i] or i] or left_out(opts, i, #vms, status)
    entry.image, list[i] = path, entry
  end
  io.stdout:write(json.encode{
    minikvm = require("minikvm")._VERSION, status = status, vms = list,
    messages = json.list(say.said),
  }, "\n")
  io.stdout:flush()
end

return M
