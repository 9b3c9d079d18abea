-- vm/linux.lua - mode="linux": the machine that a Linux kernel finds, what it is told of it, and
-- how its end is told from the last lines it printed.
--
-- Linux without ACPI and without an APIC: 8259A, 8254, 8042, MC146818, 16550A, as in a PC/AT. What
-- it would look for in vain, and wait for, is named on its command line (Linux,
-- Documentation/admin-guide/kernel-parameters.txt); so is that its ciphers need no tests of
-- themselves, a tenth of a boot.

local core = require "minikvm.core"

local M = {}

M.MEMORY = 256 << 20
local CMOS <const>, CMOS_IRQ <const> = 0x70, 8
local LINES <const>, LINES_MAX <const>, TAIL <const> = 20, 100, 16384 -- of the console

local WORDS <const> = "console=ttyS0 panic=-1 reboot=k acpi=off pci=off noapic nolapic nokaslr "
  .. "tsc=reliable io_delay=none i8042.noaux i8042.nomux i8042.nopnp random.trust_cpu=on "
  .. "cryptomgr.notests"

---Options of kvm.vm, for a PC.
---@param o table  checked
function M.options(o)
  if o.cpus and o.cpus > 1 then
    core.blame(("kvm.vm: cpus = %d: mode \"linux\" has one vCPU: a kernel starts others by an "
      .. "APIC, which there is none of"):format(o.cpus))
  end
  o.linux, o.mode = true, "long"
  o.memory = o.memory or M.MEMORY
  o.page_size = o.page_size or 2 << 20
  o.irqchip, o.console = o.irqchip or "pic", o.console or "uart"
end

---The devices that are made in Lua; and what Linux does not need of the others: it has its time
---from the TSC, so that a tick which comes late is worth as much as all that it is late for. It
---masks and acknowledges an interrupt before it serves it, and unmasks it afterwards: of these OUTs
---the interrupt controllers may hear at its next exit.
function M.attach(vm)
  core.lose_ticks(vm)
  core.collect_pic(vm)
  vm:attach(require("minikvm.devices.rtc").new(), { ports = CMOS, irq = CMOS_IRQ })
  require("minikvm.linux.channel").attach(vm)
end

-- VMs whose kernel was told that there is no PCI.
local without_pci = setmetatable({}, { __mode = "k" })

---Raises when a kernel was loaded that will not look for the bus.
function M.check_pci(vm)
  if without_pci[vm] then
    core.blame(("vm.pci: the kernel of vm %q was loaded with pci=off on its command line: attach "
      .. "before vm:load, or call vm.pci:enable() there"):format(vm.name))
  end
end

---What a kernel finds in memory beside what its image brings: { at=, bytes= } or nil.
function M.tables(vm)
  if not vm.pci:enabled() then return end
  return { at = require("minikvm.device.pci").TABLE, bytes = vm.pci:routing_table() }
end

---What a kernel is told: words on the machine, then the script's, which so have the last word.
---@param text string?
---@return string
function M.command_line(vm, text)
  local hz, words = vm.cpu[0].tsc_hz, WORDS
  if vm.pci:enabled() then
    words = words:gsub(" pci=off", "")
  else
    without_pci[vm] = true
  end
  if hz then words = ("%s tsc_early_khz=%d"):format(words, hz // 1000) end
  return text and text ~= "" and words .. " " .. text or words
end

-- ---- how it ended ----

local function split(text)
  local lines = {}
  for line in text:gsub("\r", ""):gmatch "[^\n]+" do lines[#lines + 1] = line end
  return lines
end

local EXPLAINED <const> = { halt = true, panic = true, shutdown = true, fault = true }

-- What Linux prints at the very end (kernel/panic.c, kernel/reboot.c), by what it means.
local ENDS <const> = {
  { "Kernel panic %- not syncing: (.*)", "Linux panicked: %s" },
  { "reboot: Restarting system", "Linux rebooted" },
  { "reboot: Power down", "Linux powered off" },
  { "reboot: System halted", "Linux powered off, or was halted" },
}

---The last of those among the lines, as a sentence, and its line when it is a panic.
local function meaning(lines)
  for i = #lines, math.max(1, #lines - LINES_MAX), -1 do
    for _, known in ipairs(ENDS) do
      local what = lines[i]:match(known[1])
      if what then return known[2]:format(what), known[1]:find "panic" and i end
    end
  end
end

---Says of a run that ended what Linux's last lines say. They become the report, from the panic on,
---or follow it on a crash.
---@param reason string?
---@param info table|string
function M.explain(vm, reason, info)
  if vm.state == "closed" or not EXPLAINED[reason] then return end
  local lines = split(vm.console:text():sub(-TAIL))
  local said, panic = meaning(lines)
  if said then
    info.text = ("%s (%s)"):format(said, info.text)
    info.report = nil -- the registers of a reset, which was meant
  end
  if reason == "halt" or #lines == 0 then return end
  info.report = (info.report and info.report .. "\n" or "") .. "the guest's last lines:\n"
    .. table.concat(lines, "\n", panic or math.max(1, #lines - LINES + 1))
end

return M
