-- linux/host.lua - whether this host can run Linux in a VM, and where a kernel for it is.

local M = {}

---Why this host cannot, as a sentence; nil when it can.
---@param kvm minikvm
---@param command string  what somebody wants to run, to be tried in an emulated machine
---@return string?
function M.problem(kvm, command)
  local probe = kvm.probe()
  if not probe.ok then
    return ("this needs KVM: %s (minikvm doctor says more)"):format(probe.why)
  elseif probe.host == "pvm" then
    return "this host's KVM (kvm_pvm, a paravirtual one) cannot run Linux's user space: the "
      .. "system calls of 64-bit programs do not reach a guest's kernel, and kernel code has no "
      .. "FPU and no XSAVE. It takes kvm_intel or kvm_amd. To try it all the same, in an emulated "
      .. "machine:\n"
      .. "  tools/stock -- ./minikvm " .. command
  end
end

local function is_readable(path)
  local file <close> = io.open(path, "rb")
  return file ~= nil and file:read(1) ~= nil
end

---Where tools/linux-kernel puts what it fetches (XDG Base Directory Specification: an empty setting
---counts as none).
local function cache()
  local home, folder = os.getenv "HOME" or "/", os.getenv "XDG_CACHE_HOME" or ""
  return (folder ~= "" and folder or home .. "/.cache") .. "/minikvm-linux"
end

---The kernel that tools/linux-kernel has fetched, or the host's own; nil and what to do when there
---is none.
---@return string? path
---@return string? why
function M.find_kernel()
  local list = { cache() .. "/vmlinuz" }
  local release <close> = io.open("/proc/sys/kernel/osrelease")
  if release then list[2] = "/boot/vmlinuz-" .. release:read() end
  list[#list + 1] = "/boot/vmlinuz"
  for _, path in ipairs(list) do
    if is_readable(path) then return path end
  end
  return nil, "no kernel: tools/linux-kernel (installed: share/minikvm/tools) fetches Debian's"
end

---The modules tree of the kernel that tools/linux-kernel has fetched; nil when there is none.
---@return string?
function M.find_modules()
  local tree = cache() .. "/modules"
  return is_readable(tree .. "/modules.order") and tree or nil
end

---The modules tree of a kernel: of the one that tools/linux-kernel has fetched, or of /boot's; nil
---when there is none.
---@param kernel string
---@return string?
function M.modules_of(kernel)
  if kernel == cache() .. "/vmlinuz" then return M.find_modules() end
  local release = kernel:match "^/boot/vmlinuz%-(.+)$"
  local tree = release and "/lib/modules/" .. release
  return tree and is_readable(tree .. "/modules.order") and tree or nil
end

return M
