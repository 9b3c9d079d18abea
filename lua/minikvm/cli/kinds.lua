-- cli/kinds.lua - what `minikvm run` makes of files that are more than an image: a snapshot goes on
-- where it was taken; a Linux kernel gets its machine and a first file system with a shell; a disk
-- is booted by a BIOS.

local complain = require("minikvm.cli.say").complain
local core = require "minikvm.core"

local M = {}

local SNAPSHOT <const> = "\x89MKSNAP\n" -- src/snapshot/file.c
local HEAD <const>, SECTOR <const> = 1024, 512
local ERRORS_MAX <const> = 10 -- of a guest's disks: it can make as many as it likes

---What `run` was told that a file of such a kind knows itself.
local FIXED <const> = {
  disk = { "page_size", "at", "entry", "cmdline", "module", "framebuffer" },
  snapshot = { "mode", "memory", "page_size", "at", "entry", "irqchip", "cmdline", "module",
               "framebuffer" },
  linux = { "page_size", "at", "entry", "irqchip", "module", "framebuffer" },
}

---The first option given that cannot be given for such a file, as it is written.
local function misplaced(kind, opts)
  for _, key in ipairs(FIXED[kind]) do
    if opts[key] then return "--" .. key:gsub("_", "-") end
  end
end

---The disks of the command line as kvm.vm takes them, `first` before those of --disk; nil when
---there are none.
local function disks_of(opts, first)
  local list = { first }
  table.move(opts.disk or {}, 1, #(opts.disk or {}), #list + 1, list)
  for i, path in ipairs(list) do list[i] = { path = path, write = opts.disk_write } end
  return list[1] and list
end

---The same for the machine that boots from the first one.
local function add_disks(opts, o, first)
  local list = disks_of(opts, first)
  if not list then return end
  o.disk, o.bios = list, opts.bios
  local told = 0
  o.disk_error = function(text)
    told = told + 1
    if told <= ERRORS_MAX then complain(o.name, text) end
    if told == ERRORS_MAX then complain(o.name, "further errors of its disks are not shown") end
  end
end

---@param o table  options of kvm.vm
local function resume(kvm, opts, path, o)
  local cli = require "minikvm.cli"
  local wrong = misplaced("snapshot", opts)
  if wrong then
    complain(o.name, ("%s: it is a snapshot, which has that in it"):format(wrong))
    return nil, 2
  end
  local snap, status = cli.attempt(o.name, kvm.load_snapshot, path)
  if not snap then return nil, status end
  add_disks(opts, o)
  local ok, vm, why = pcall(snap.vm, snap, {
    name = o.name, limits = o.limits, unhandled = o.unhandled, coalesce = o.coalesce,
    echo = o.echo, trace = o.trace, assist = o.assist, disk = o.disk, bios = o.bios,
    disk_error = o.disk_error })
  snap:close()
  if ok and vm then
    opts.screens[vm] = opts.bios == "lua" or nil
    return vm
  end
  why = require("minikvm.options").without_place(why or vm)
  if why:find("attach them in setup", 1, true) then
    why = why .. ": a script resumes it, by kvm.load_snapshot and snapshot:vm{ setup = … }; of a "
      .. "machine with disks: --disk and --bios, as it was made"
  end
  complain(o.name, why)
  return nil, 1
end

---Linux with a shell, on the machine of minikvm linux, which has the disks of --disk.
local function boot(kvm, opts, path, o)
  local wrong = misplaced("linux", opts)
  if wrong then
    complain(o.name, ("%s: it is a Linux kernel, which says that itself; minikvm linux --help "
      .. "tells what can be chosen"):format(wrong))
    return nil, 2
  end
  if opts.disk_write and not opts.disk then
    complain(o.name, "--disk-write: no disk is named by --disk")
    return nil, 2
  end
  o.mode, o.cmdline, o.disks = "linux", nil, disks_of(opts)
  local machine = require("minikvm.cli.linux").machine
  local vm, status = machine(kvm, { kernel = path, append = opts.cmdline, vm = o })
  if vm then opts.shells[vm] = true end
  return vm, status
end

---What is said of an image that the options make the first disk, and that cannot be one.
local function refuse_elf(_, _, path, o)
  complain(o.name, ("%s: an ELF file is no disk to boot from: --disk goes with a disk image or a "
    .. "Linux kernel"):format(path))
  return nil, 2
end

---The image and what --disk names, booted by a BIOS.
local function boot_disk(kvm, opts, path, o)
  local wrong = misplaced("disk", opts)
  if wrong then
    complain(o.name, ("%s: it is a disk, which is booted by a BIOS"):format(wrong))
    return nil, 2
  end
  add_disks(opts, o, path)
  local vm, status = require("minikvm.cli").attempt(o.name, kvm.vm, o)
  if vm then opts.screens[vm] = opts.bios == "lua" or nil end
  return vm, status
end

---Whether a file is longer than the boot sector that it begins with, and was not placed elsewhere.
local function is_disk(head, opts)
  return #head > SECTOR and head:sub(SECTOR - 1, SECTOR) == "\x55\xaa"
    and not (opts.mode or opts.at or opts.entry)
end

---A file as the readers of image formats take it; nil for what is none or cannot be read. A FIFO is
---not opened.
local function open_source(path)
  local size = core.file_size(path)
  local file = size and io.open(path, "rb") or nil
  if not file then return nil end
  local source = { name = path, size = size, head = file:read(HEAD) or "", file = file }
  function source.read(_, offset, bytes)
    file:seek("set", offset)
    return file:read(bytes) or ""
  end
  return source
end

---Whether a file is a Linux kernel: bzImage or vmlinux.
local function is_linux(source)
  local plan = require "minikvm.image.plan"
  if plan.is_bzimage(source) then return true end
  if not plan.is_elf(source) then return false end
  local ok, yes = pcall(require("minikvm.image.pvh").is_linux, source)
  return ok and yes
end

---Whether it was told something of disks.
local function with_disks(opts) return opts.bios or opts.disk_write or opts.disk end

---A Linux kernel has the disks beside it; what is no kernel is the first of them.
local function kind_of(source, opts)
  if source.head:sub(1, #SNAPSHOT) == SNAPSHOT then return resume end
  if opts.bios then return boot_disk end
  if (opts.mode == nil or opts.mode == "linux") and is_linux(source) then return boot end
  if with_disks(opts) then
    return require("minikvm.image.plan").is_elf(source) and refuse_elf or boot_disk
  end
  return is_disk(source.head, opts) and boot_disk or nil
end

---How a VM is made of a file that takes more than to be loaded; nil for others.
---@param path string
---@param opts table  of minikvm run
---@return fun(kvm: minikvm, opts: table, path: string, o: table): minikvm.vm?, integer?
function M.find(path, opts)
  local source = open_source(path)
  if not source then return with_disks(opts) and boot_disk or nil end
  local kind = kind_of(source, opts)
  source.file:close()
  return kind
end

return M
