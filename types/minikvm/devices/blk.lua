---@meta minikvm.devices.blk

---virtio's disk.
---@class minikvm.devices.blk
---@field private OPTIONS table
---@field private check_list function
---@field private attach_list function
local blk = {}

---Options of `blk.new`.
---@class minikvm.devices.blk.options
---@field path? string as of kvm.disk
---@field write? boolean as of kvm.disk
---@field size? minikvm.size as of kvm.disk
---@field bytes? string as of kvm.disk
---@field limit? minikvm.size as of kvm.disk
---@field read_only? boolean `true`: the guest cannot write

---Describes it, for vm.pci:attach.
---@param options minikvm.devices.blk.options
---@return minikvm.definition
function blk.new(options) end

return blk
