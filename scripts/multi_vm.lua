-- multi_vm.lua - several guests at once, each in a VM and thread of its own: their output labelled,
-- a table of results at the end.
--
--   minikvm scripts/multi_vm.lua [image ...]

local kvm = require "minikvm"
local args = require "minikvm.cli.args"
local cli = require "minikvm.cli"

local opts, status = args.handle({
  program = "multi_vm.lua", summary = "Runs several guests at once, each in a VM and thread of its"
    .. " own.\nTheir output is labelled; a table at the end says how each ended.",
  options = {}, rest = { key = "images", value = "image",
    help = "a flat image, or the name of one in guests/real (counter, hello, multiplication,"
      .. " fibonacci)" },
}, arg)
if not opts then os.exit(status, true) end
local images = opts.images
if not images or #images == 0 then
  images = { "counter", "hello", "multiplication", "fibonacci" }
end

local here <const> = arg[0]:match "^.*/" or ""

---The path of guests/real/counter.bin for "counter"; a path stays what it is.
local function path_of(image)
  return image:find "[./]" and image or ("%s../guests/real/%s.bin"):format(here, image)
end

local vms = {}
for i, image in ipairs(images) do
  local name = image:match "[^/]*$":gsub("%.bin$", "")
  local vm = assert(kvm.vm{ name = name, mode = "real", limits = { seconds = 10 } })
  local loaded, problem = cli.attempt("multi_vm.lua", vm.load, vm, path_of(image))
  if not loaded then os.exit(problem, true) end
  vm.console:on_line(function(line) print(("[%s] %s"):format(name, line)) end)
  vms[i] = vm
end
for _, vm in ipairs(vms) do vm:start() end

local failed = 0
local results = kvm.wait(vms)
print()
print(("%-16s %-9s %8s %10s  %s"):format("guest", "reason", "exits", "ms", "what happened"))
for _, r in ipairs(results) do
  local fine = r.reason == "halt" or r.reason == "exit" and r.info.code == 0
  failed = failed + (fine and 0 or 1)
  print(("%-16s %-9s %8d %10.3f  %s"):format(r.vm.name, r.reason, r.info.exits,
                                              r.info.seconds * 1e3, r.info.text))
end
os.exit(failed == 0, true)
