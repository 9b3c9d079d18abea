-- image/boot_info.lua - the machine as boot protocols describe it to kernels, as far as
-- they ask: what
-- the processor has, an RSDP, the time, a framebuffer that is there.

local M = {}

local function features(vm)
  return { nx = vm.cpuid:has "nx", pat = vm.cpuid:has "pat", tsc_hz = vm.cpu[0].tsc_hz }
end

---RAM without the framebuffer.
local function without(ranges, framebuffer)
  local list = {}
  for _, r in ipairs(ranges or {}) do
    if r[1] ~= framebuffer.at then list[#list + 1] = r end
  end
  return list
end

---Adds it to what a VM wants of an image; what takes work is found when somebody asks.
---@param want minikvm.image.want
---@param vm minikvm.vm
function M.want(want, vm)
  want.has_framebuffer = #want.ranges > 0 and require("minikvm.vm.framebuffer").of(vm) or nil
  if want.has_framebuffer then want.ranges = without(want.ranges, want.has_framebuffer) end
  want.features = function() return features(vm) end
  want.rsdp = function() return require("minikvm.image.acpi").find(vm) end
  want.now = os.time()
end

return M
