---@meta minikvm.devices.console

---virtio's console.
---@class minikvm.devices.console
local console = {}

---Options of `console.new`.
---@class minikvm.devices.console.options
---@field on_output? fun(d: minikvm.device, text: string, port: integer) a port has printed
---@field ports? integer|(string|true)[] how many, hvc0 and so on; or a list with a name for each, or true for a console; 1

---Describes it, for vm.pci:attach.
---@param options? minikvm.devices.console.options
---@return minikvm.definition
function console.new(options) end

---Text for the guest.
---@param d minikvm.device
---@param text string
---@param port? integer 0
function console.send(d, text, port) end

---Options of `console.expect`.
---@class minikvm.devices.console.expect.options
---@field port? integer 0
---@field timeout? number seconds; 10
---@field plain? boolean `true`: text, not a pattern

---Waits for a port to print what a pattern matches, as console:expect.
---@param d minikvm.device
---@param patterns string|string[]
---@param options? minikvm.devices.console.expect.options
---@return integer index
---@return string|integer ...
function console.expect(d, patterns, options) end

return console
