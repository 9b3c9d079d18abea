-- kvm_vmm.lua - the command line of the teaching hypervisor that minikvm grew out of.
--
--   minikvm scripts/kvm_vmm.lua guest1.bin [guest2.bin ...]      up to 4 real-mode guests, each a
--                                                                vCPU of one VM with its own window
--   minikvm scripts/kvm_vmm.lua --paging os-1k/kernel.bin        one 32-bit guest with paging

local kvm = require "minikvm"
local args = require "minikvm.cli.args"
local cli = require "minikvm.cli"

local spec = {
  program = "kvm_vmm.lua",
  summary = "Runs up to 4 real-mode guests as vCPUs of one VM, or one 32-bit guest with paging.",
  options = {
    { "--paging", "-p", help = "32-bit protected mode with 4 MiB pages" },
    { "--load", "-l", value = "ADDR", type = "integer", help = "load at this physical address" },
    { "--entry", "-e", value = "ADDR", type = "integer",
      help = "begin at this address (--paging: 0x80001000)" },
  },
  rest = { key = "guests", value = "guest.bin", min = 1, max = 4, help = "flat image" },
  notes = "Piped input goes to the guests' console; in a terminal Ctrl-A x leaves.",
}

local opts, status = args.handle(spec, arg)
if not opts then os.exit(status, true) end
if opts.paging and #opts.guests > 1 then
  os.exit(args.complain(spec, "--paging takes one guest"), true)
end

local vm = assert(kvm.vm{ name = "kvm_vmm", mode = opts.paging and "paged" or "real",
                          cpus = #opts.guests, irqchip = opts.paging and "pic" or "none" })
for i, guest in ipairs(opts.guests) do
  local loaded, problem = cli.attempt("kvm_vmm.lua", vm.load, vm, guest,
                                      { cpu = i - 1, at = opts.load, entry = opts.entry })
  if not loaded then os.exit(problem, true) end
end
vm.console:attach()
if #opts.guests > 1 then -- several outputs: told apart by line
  vm.console:on_line(function(line, cpu)
    print(("[%s] %s"):format(opts.guests[cpu + 1]:match "([^/]+)$", line))
  end)
end
local reason, info = vm:run()
if reason == "exit" then info.code = 0 end -- its guests leave in BL what they printed last
os.exit(cli.conclude(vm.name, reason, info), true)
