-- mini_hypervisor.lua - the command line of the older 64-bit teaching hypervisor: one VM per image,
-- each on its own thread; named files shared copy-on-write, created files private to each VM.
--
--   minikvm scripts/mini_hypervisor.lua -m 4 -p 2 -f guests/long/data/shared.txt
--                      -g guests/long/cow_writer.bin guests/long/cow_reader.bin --out results

local kvm = require "minikvm"
local args = require "minikvm.cli.args"
local cli = require "minikvm.cli"

local spec = {
  program = "mini_hypervisor.lua",
  summary = "Runs 64-bit guests, each in a VM of its own.",
  options = {
    { "--memory", "-m", value = "MB", type = { "2", "4", "8" }, help = "RAM of each VM" },
    { "--page", "-p", value = "SIZE", type = { "4", "2" }, help = "pages of 4 (KB) or 2 (MB)" },
    { "--guest", "-g", value = "IMAGE", many = true, help = "guest images, one VM each" },
    { "--file", "-f", value = "FILE", many = true,
      help = "files every VM sees; what one writes to them, it alone sees" },
    { "--out", "-o", value = "DIR", help = "keep the files the VMs write, a folder for each" },
    { "--plain", help = "output as it comes, not labelled by line" },
  },
}

---The directory all files lie in, and their names in it: what guests open them by.
local function locate(files)
  local root, names, seen = nil, {}, {}
  for i, file in ipairs(files) do
    local dir, name = file:match "^(.*/)([^/]+)$"
    dir, name = dir or "./", name or file
    if root and dir ~= root then return nil, "the files must lie in one directory" end
    if seen[name] then return nil, ("file '%s' is given twice"):format(file) end
    local handle, why = io.open(file, "rb")
    if not handle then return nil, why end
    handle:close()
    root, names[i], seen[name] = dir, name, true
  end
  return root, names
end

local opts, status = args.handle(spec, arg)
if not opts then os.exit(status, true) end
local root, names = locate(opts.file or {})
local why = not opts.guest and "no guest: give -g IMAGE" or type(names) == "string" and names
if why then os.exit(args.complain(spec, why), true) end
---@cast names string[]

local rules = {}
for i, name in ipairs(names) do rules[i] = { name, "cow" } end
local files = assert(kvm.files{ root = root, rules = rules, private = opts.out })
local vms, count = {}, {}
for i, image in ipairs(opts.guest) do
  local name = image:match "[^/]*$":gsub("%.%w+$", "")
  count[name] = (count[name] or 0) + 1
  if count[name] > 1 then name = name .. "-" .. count[name] end
  local vm = assert(kvm.vm{ name = name, mode = "long", memory = (opts.memory or "2") .. "M",
                            page_size = opts.page == "2" and "2M" or "4K", files = files })
  local loaded, problem = vm:load(image)
  if not loaded then os.exit(args.complain(spec, problem), true) end
  if not opts.plain and #opts.guest > 1 then
    vm.console:on_line(function(line) print(("[%s] %s"):format(name, line)) end)
  end
  vms[i] = vm
end
if #vms == 1 then vms[1].console:attach() end

local worst = 0
for _, vm in ipairs(vms) do vm:start() end
for _, r in ipairs(kvm.wait(vms)) do
  worst = math.max(worst, cli.conclude(r.vm.name, r.reason, r.info))
end
os.exit(worst, true)
