---@meta minikvm.devices.rng

---virtio's source of random numbers.
---@class minikvm.devices.rng
local rng = {}

---Options of `rng.new`.
---@class minikvm.devices.rng.options
---@field bytes? fun(n: integer): string gives n of them; the host's

---Describes it, for vm.pci:attach.
---@param options? minikvm.devices.rng.options
---@return minikvm.definition
function rng.new(options) end

return rng
