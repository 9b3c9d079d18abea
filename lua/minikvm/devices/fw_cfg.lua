-- fw_cfg.lua - QEMU's firmware configuration device: what SeaBIOS asks its machine for.
--
--   vm:attach(fw_cfg.new{ files = { ["etc/sercon-port"] = "\xf8\x03" } }, { ports = 0x510 })
--
-- Follows QEMU's docs/specs/fw_cfg.rst: a selector port, and a data port that yields the bytes of
-- the item; numbers are little-endian, those of the file directory big-endian. The traditional
-- interface, without DMA. Writes to items go nowhere. Handlers run on the vCPU's thread under the
-- Lua lock.

local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

local SIGNATURE <const>, ID <const>, FILE_DIR <const>, FILES <const> = 0x00, 0x01, 0x19, 0x20
local TRADITIONAL <const> = 1 -- in ID
local NAME_MAX <const>, FILES_MAX <const> = 55, 0x1000
local PIECE <const> = 4096 -- bytes given to the data port at once

---The items of a table of files: the directory, and each file under its key.
local function items_of(files, items)
  local names, all = options.keys(files), { [SIGNATURE] = "QEMU",
                                            [ID] = ("<I4"):pack(TRADITIONAL) }
  for key, bytes in pairs(items) do all[key] = bytes end
  local directory = { (">I4"):pack(#names) }
  for i, name in ipairs(names) do
    all[FILES + i - 1] = files[name]
    directory[i + 1] = (">I4I2I2c56"):pack(#files[name], FILES + i - 1, 0, name)
  end
  all[FILE_DIR] = table.concat(directory)
  return all
end

---The next bytes of the item to the data port, which are zeros behind its end.
local function offer(d)
  local s = d.state
  local item = d.own.items[s.selected] or ""
  local bytes = item:sub(s.at + 1, s.at + PIECE)
  s.at = s.at + #bytes
  d.own.source:put(bytes)
end

local function select(d, key)
  d.own.source:take()
  d.state.selected, d.state.at = key, 0
  offer(d)
end

local function check_files(value)
  if type(value) ~= "table" then return nil, "expected a table of bytes by name" end
  local count = 0
  for name, bytes in pairs(value) do
    count = count + 1
    if type(name) ~= "string" or #name > NAME_MAX or name == "" or type(bytes) ~= "string" then
      return nil, ("%s: a name has 1 to 55 bytes, its contents are a string"):format(tostring(name))
    end
  end
  if count > FILES_MAX then return nil, ("%d files, 4096 at most"):format(count) end
  return value
end

local function check_items(value)
  if type(value) ~= "table" then return nil, "expected a table of bytes by key" end
  for key, bytes in pairs(value) do
    if math.type(key) ~= "integer" or key < 0 or key > 0xffff or type(bytes) ~= "string" then
      return nil, ("%s: a key is 0 to 0xffff, its contents are a string"):format(tostring(key))
    end
  end
  return value
end

local OPTIONS <const> = options.declare("fw_cfg.new", { files = check_files, items = check_items })

---Describes the device, for vm:attach() with `ports = 0x510`.
---  files  contents by name, such as "bootorder"
---  items  contents by key, of those that have no name, such as 0x05, the number of vCPUs
---@param opts? { files: table<string, string>?, items: table<integer, string>? }
---@return minikvm.definition
function M.new(opts)
  local o = options.check("fw_cfg.new", opts, OPTIONS)
  return kvm.device{
    name = "fw_cfg", -- behind its end an item reads as the register does: zeros
    registers = { [0] = { name = "SELECTOR", width = 2, access = "wo" } },
    write = { SELECTOR = function(d, _, key, size) if size == 2 then select(d, key) end end },
    reset = function(d) d.state = { selected = SIGNATURE, at = 0 } end,
    attach = function(d)
      d.own.items = items_of(o.files or {}, o.items or {})
      d.own.source = d:keep(d.vm.ports:source(d.base + 1, function() offer(d) end))
      offer(d)
    end,
  }
end

return require("minikvm.strict").module(M, "devices.fw_cfg")
