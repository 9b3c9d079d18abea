---@meta minikvm.devices.fw_cfg

---QEMU's firmware configuration: `vm:attach(fw_cfg.new{ … }, { ports = 0x510 })`.
---@class minikvm.devices.fw_cfg
local fw_cfg = {}

---Options of `fw_cfg.new`.
---@class minikvm.devices.fw_cfg.options
---@field files? table<string, string> contents by name, such as `"bootorder"`
---@field items? table<integer, string> contents by key, of those that have no name

---Describes it, for vm:attach.
---@param options? minikvm.devices.fw_cfg.options
---@return minikvm.definition
function fw_cfg.new(options) end

return fw_cfg
