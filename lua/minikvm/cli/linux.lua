-- minikvm linux: a shell, or one command, under a distribution's kernel.
--
-- Without --initrd the guest's first file system is made here: busybox, what --file names, and an
-- init that runs the shell on the console, or the command of --run, whose output and exit status
-- come through ports (image/tell.lua).

local args = require "minikvm.cli.args"
local linux_host = require "minikvm.linux.host"
local linux_net = require "minikvm.cli.linux_net"
local rootfs = require "minikvm.linux.rootfs"
local say = require "minikvm.cli.say"
local shell = require "minikvm.shell"

local M = {}

-- 0xf4 (docs/abi.md); the command begins; what it prints to stderr
local EXIT_PORT <const>, BEGIN_PORT <const>, ERROR_PORT <const> = 244, 245, 246
local QUIET <const> = "quiet loglevel=1" -- panics and the last words only

M.spec = {
  program = "minikvm linux",
  summary = "A shell under a Linux kernel, in the terminal, which Ctrl-A x leaves; or one command.",
  options = {
    { "--kernel", "-k", value = "FILE",
      help = "bzImage, or vmlinux with a PVH note (default: the one"
        .. " that tools/linux-kernel has fetched, else the host's own in /boot)" },
    { "--initrd", value = "FILE", help = "the first file system, instead of busybox and a shell" },
    { "--append", value = "TEXT", help = "more for the kernel's command line" },
    { "--memory", value = "SIZE", type = "size", help = "RAM (256M)" },
    { "--file", value = "PATH=HOST", repeatable = true,
      help = "a file of the host, or a program, at this path of the guest, relative to /" },
    { "--pci", value = "SCRIPT", repeatable = true,
      help = "a Lua script that gets the VM, and the hubs of --net, and attaches PCI devices, or"
        .. " returns one of kvm.pci" },
    { "--disk", value = "FILE[,cow]", repeatable = true,
      help = "an image, or a block device, as a disk (/dev/vda and so on, by virtio_blk); with ,cow"
        .. " what the guest writes is not kept" },
    linux_net.option,
    { "--run", value = "CMD", help = "run this command of sh, its output on stdout and stderr, and"
        .. " end with its exit status" },
    { "--deadline", "-d", value = "SEC", type = "seconds", help = "end the VM after this time" },
  },
  notes = "Exit status: the command's, or the shell's; 0 when Linux was powered off; 1 could not"
    .. "\nstart; 2 wrong command line; 124 deadline; 134 panic or reboot.",
}

local PORTS <const> = { EXIT = EXIT_PORT, BEGIN = BEGIN_PORT, ERROR = ERROR_PORT }

-- What runs first in the guest.
local INIT <const> = rootfs.BEGIN .. rootfs.MODULES .. [[
for i in /sys/class/net/eth*; do [ ! -e $i ] || ip link set ${i##*/} up; done
tell BEGIN 1
if [ -e /etc/minikvm/command ]; then
    { { sh /etc/minikvm/command </dev/null 2>&3 3>&-; echo $? >/tmp/.status; } | tell; } 3>&1 |
        tell ERROR
    read -r status </tmp/.status
else
    # The end of a session's leader hangs up the terminal, and what is not out yet is lost: stty
    # waits for it (tcsetattr(3), TCSADRAIN).
    setsid cttyhack sh -c 'sh; status=$?; stty opost; exit $status'
    status=$?
fi
tell EXIT ${status:-255}
]]

local function complain(...)
  say.complain("linux", table.concat{ ... })
  return 1
end

-- ---- what it takes ----

---The words of minikvm linux for the machine that somebody else wants.
local function argv_of(opts)
  local argv = { "linux", "--kernel", opts.kernel }
  for _, disk in ipairs(opts.vm.disks or {}) do
    table.move({ "--disk", disk.path .. (disk.write and "" or ",cow") }, 1, 2, #argv + 1, argv)
  end
  return argv
end

---Whether this host's KVM can run Linux; says why not.
local function check_host(kvm, opts)
  local argv = opts.argv and { "linux", table.unpack(opts.argv) } or argv_of(opts)
  local problem = linux_host.problem(kvm, shell.line(argv))
  if problem then complain(problem) end
  return not problem
end

---nil and a message when one of --file is none.
local function parse_files(list)
  local files = {}
  for _, text in ipairs(list or {}) do
    local path, host = text:match "^([^=]+)=(.+)$"
    if not path then return nil, ("--file: expected PATH=HOST, got %q"):format(text) end
    if files[path] then return nil, ("--file: %s is given twice"):format(path) end
    files[path] = host
  end
  return files
end

local function parse(argv)
  local opts, status = args.handle(M.spec, argv)
  if not opts then return nil, status end
  local why
  opts.files, why = parse_files(opts.file)
  if opts.initrd and (opts.run or opts.file) then
    why = "--run and --file go into minikvm's own initrd: not with --initrd"
  end
  if not why then opts.cards, why = linux_net.parse(opts.net) end
  if why then return nil, args.complain(M.spec, why) end
  return opts
end

-- ---- the machine ----

---The drivers of what --disk and --net attach, out of the kernel's modules; nil: it has none here,
---or needs none.
local function drivers(opts, kernel)
  local list = { from = linux_host.modules_of(kernel) }
  if opts.vm.disks then list[#list + 1] = "virtio_blk" end
  if opts.net then list[#list + 1] = "virtio_net" end
  if not list[1] or not list.from then return end
  table.insert(list, 1, "virtio_pci")
  return list
end

---The table of kvm.initrd.
---@param opts { run: string?, files: table?, net: string[]?, vm: table }  vm: options of kvm.vm
---@param kernel string
function M.initrd_options(opts, kernel)
  local files = opts.files or {}
  files["bin/tell"] = { bytes = require("minikvm.image.tell").program() }
  if opts.run then files["etc/minikvm/command"] = { bytes = opts.run .. "\n" } end
  return { busybox = true, files = files, modules = drivers(opts, kernel),
           init = INIT:gsub("tell (%u+)", function(port) return "tell " .. PORTS[port] end),
           directories = rootfs.DIRECTORIES, nodes = rootfs.CONSOLE }
end

local function command_line(opts)
  local words = { opts.initrd and "quiet" or QUIET }
  local term = os.getenv "TERM"
  if term and term:find "^[%w.+-]+$" then words[2] = "TERM=" .. term end -- for init, by the kernel
  words[#words + 1] = opts.append
  return table.concat(words, " ")
end

---Connects the console when the command or the shell begins: nothing that is printed before a
---command is shown, and Linux drops what is typed before its driver of the UART is there.
---@param opts { initrd: string?, run: string?, input: string?, json: boolean? }  input: a file that
---  is typed; json: what is printed is kept, not shown
---@param host { terminal: boolean? }
function M.connect(vm, opts, host)
  local function attach()
    if opts.input then return assert(vm.console:input(opts.input)) end
    if host.terminal then io.stderr:write("minikvm: Ctrl-A x leaves\n") end
    vm.console:attach():echo(not opts.json)
  end
  if opts.initrd then return attach() end
  if opts.run then
    vm.console:echo(false)
    vm.console:eof()
    vm.ports:on(ERROR_PORT, { write = function(_, byte)
      io.stderr:write(string.char(byte & 0xff))
    end })
  end
  vm.ports:on(BEGIN_PORT, { write = function()
    if opts.run then vm.console:echo(true) else attach() end
  end })
end

---The first file system, as vm:load takes it; nil, status when something was said.
local function initrd_of(kvm, opts, kernel)
  if opts.initrd then return opts.initrd end
  local bytes, status = require("minikvm.cli").attempt("linux", kvm.initrd,
                                                       M.initrd_options(opts, kernel))
  if not bytes then return nil, status end
  return { bytes = bytes, name = "the initrd" }
end

---Runs the scripts of --pci, and attaches what they return.
---@return true? done  nil, status when something was said
local function attach_pci(vm, opts)
  local cli = require "minikvm.cli"
  local hubs, problem = cli.attempt("linux", linux_net.attach, vm, opts.cards or {})
  if not hubs then return nil, problem end
  for _, path in ipairs(opts.pci or {}) do
    local chunk, why = loadfile(path)
    if not chunk then return nil, complain(why) end
    local done, status = cli.attempt("linux: " .. path, function()
      local def = chunk(vm, table.unpack(hubs))
      if def ~= nil then vm.pci:attach(def) end
      return true
    end)
    if not done then return nil, status end
  end
  return true
end

---A VM with Linux in it, where this host can run that.
---@param opts { kernel: string?, initrd: string?, run: string?, append: string?, files: table?,
---  argv: string[]?, pci: string[]?, net: string[]?, cards: table[]?, vm: table }  argv: the words
---  it was asked for by, if they are those of minikvm linux; pci: scripts; cards: of --net; vm:
---  options of kvm.vm
---@return minikvm.vm? vm  nil, status when something was said
function M.machine(kvm, opts)
  local cli = require "minikvm.cli"
  if not check_host(kvm, opts) then return nil, 1 end
  local kernel, why = opts.kernel, nil
  if not kernel then kernel, why = linux_host.find_kernel() end
  if not kernel then return nil, complain(why, ", --kernel names another") end
  local initrd, status = initrd_of(kvm, opts, kernel)
  if not initrd then return nil, status end
  local vm
  vm, status = cli.attempt("linux", kvm.vm, opts.vm)
  if not vm then return nil, status end
  local done
  done, status = attach_pci(vm, opts)
  if not done then
    vm:close()
    return nil, status
  end
  done, status = cli.attempt("linux", vm.load, vm, kernel, { initrd = initrd,
                                                             cmdline = command_line(opts) })
  if done then return vm end
  vm:close()
  return nil, status
end

---The disks of --disk, as kvm.vm takes them.
local function disks_of(opts)
  if not opts.disk then return end
  local list = {}
  for i, text in ipairs(opts.disk) do
    local path = text:match "^(.+),cow$"
    list[i] = { path = path or text, write = not path }
  end
  return list
end

---Says which disks had errors: the guest may not have told.
---@param vm minikvm.vm
function M.tell_failures(vm)
  for _, d in ipairs(vm.pci:devices()) do
    local failed = d.name == "blk" and d.state.failed or 0
    if failed > 0 then
      complain(("%d of %d requests of a disk failed, the last with: %s"):format(failed,
        d.state.requests, d.state.failure))
    end
  end
end

---Carries out the command line behind "linux".
---@param argv string[]
---@param host { terminal: boolean? }
---@return integer status
function M.main(argv, host)
  local opts, status = parse(argv)
  if not opts then return status end
  opts.argv, opts.vm = argv, { name = "linux", mode = "linux", memory = opts.memory,
                               disks = disks_of(opts) }
  local vm
  vm, status = M.machine(require "minikvm", opts)
  if not vm then return status end
  M.connect(vm, opts, host)
  local reason, info = vm:run{ deadline = opts.deadline }
  if opts.disk then M.tell_failures(vm) end
  vm:close() -- the terminal is itself again before we write
  io.stdout:flush()
  local lost = linux_net.save(opts.cards)
  if lost then return complain(lost) end
  if reason == "exit" then return info.code & 255 end
  return require("minikvm.cli").conclude("linux", reason, info)
end

return M
