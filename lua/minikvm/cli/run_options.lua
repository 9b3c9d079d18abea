-- cli/run_options.lua - the command line of minikvm run and of minikvm prompt.

local args = require "minikvm.cli.args"
local options = require "minikvm.options"

local M = {}

local LIMITS = { "exits", "seconds", "output" }

local function parse_limit(text)
  local what, amount = text:match("^([^=]*)=(.*)$")
  if not what then return nil, ("expected WHAT=N, got %q"):format(text) end
  local number = tonumber(amount)
  if what ~= "seconds" then number = options.size(amount) end
  for _, known in ipairs(LIMITS) do
    if what == known then
      if number and number > 0 and number < math.huge then return { what, number } end
      return nil, ("%s: expected a positive number, got %q"):format(what, amount)
    end
  end
  return nil, ("unknown limit %q%s; there are %s"):format(what, options.hint(what, LIMITS, "%q"),
                                                          table.concat(LIMITS, ", "))
end

local function parse_address(text)
  local number = options.to_integer(text)
  if number and number >= 0 then return number end
  return nil, ("expected an address (0x7c00 or decimal), got %q"):format(text)
end

---"640x480" as vm:load's option has it.
local function parse_size(text)
  if text == "none" then return false end
  local width, height = text:match "^(%d+)x(%d+)$"
  if width then return { width = tonumber(width), height = tonumber(height) } end
  return nil, ("expected a width and a height such as 1024x768, or none, got %q"):format(text)
end

local function parse_port(text)
  local number = text:find "^%d+$" and math.tointeger(tonumber(text))
  if number and number <= 65535 then return number end
  return nil, ("expected a port, 0 to 65535, got %q"):format(text)
end

---The address of --gdb, as it is, if it is one.
local function parse_gdb(text)
  local at, why = require("minikvm.gdb").parse(text)
  return at and text, why
end

---"kernel.elf@0x1000": a file and what is added to its addresses.
local function parse_symbols(text)
  local path, digits = text:match "^(.+)@([^@/]+)$"
  local offset = digits and options.to_integer(digits)
  if path and not offset then
    return nil, ("expected FILE or FILE@OFFSET, got %q"):format(text)
  end
  return { path = path or text, offset = offset }
end

M.spec = {
  program = "minikvm run",
  summary = "Runs guest images, each in a virtual machine of its own. The output of several is\n"
    .. "labelled; a single one gets the terminal, which Ctrl-A x leaves.",
  options = {
    { "--mode", "-m", value = "MODE", type = { "real", "protected", "paged", "long", "linux" },
      help = "CPU mode a guest starts in: real, protected, paged, long, or linux (default: what an"
        .. " ELF, Multiboot or Limine file or a Linux kernel is for; else real)" },
    { "--memory", value = "SIZE", type = "size", help = "RAM of each VM, such as 1M" },
    { "--page-size", value = "SIZE", type = "size", help = "long mode: 4K (default) or 2M" },
    { "--at", value = "ADDR", type = parse_address, help = "load the image at this address" },
    { "--entry", value = "ADDR", type = parse_address, help = "start it at this address" },
    { "--bios", value = "WHAT", help = "boot the image as a disk, by the BIOS: seabios (what a disk"
        .. " of more than a sector is booted by), lua (services in Lua, for 16-bit systems), or a"
        .. " file" },
    { "--disk", value = "FILE", repeatable = true,
      help = "a further disk, behind the image; of a Linux kernel /dev/vda and so on" },
    { "--disk-write",
      help = "what the guest writes goes to the images; else it is gone at the end" },
    { "--name", "-n", value = "NAME", repeatable = true,
      help = "name of the VM in messages, in the order of the images (default: the file's)" },
    { "--input", "-i", value = "FILE", help = "what is typed, from a file instead of stdin" },
    { "--deadline", "-d", value = "SEC", type = "seconds", help = "end every VM after this time" },
    { "--limit", "-l", value = "WHAT=N", type = parse_limit, repeatable = true,
      help = "end a VM that exceeds: exits=N, seconds=S (of running), output=N (bytes)" },
    { "--unhandled", value = "WHAT", type = { "ignore", "fault" },
      help = "ports that nobody serves: ignore (default) or fault, which ends the VM" },
    { "--no-coalesce", help = "every output byte is an exit of its own, counted exactly" },
    { "--irqchip", value = "WHAT", type = { "none", "pic" },
      help = "pic: interrupt controllers, timer and keyboard of a PC (default: none)" },
    { "--cmdline", value = "TEXT", help = "command line, for guests that read one" },
    { "--module", value = "FILE[=TEXT]", repeatable = true,
      help = "a module beside the kernel (Multiboot, Limine, PVH), and its string" },
    { "--framebuffer", value = "WxH", type = parse_size,
      help = "a framebuffer of this size, such as 1024x768 (Multiboot, Limine), or none" },
    { "--symbols", value = "FILE[@OFFSET]", type = parse_symbols, repeatable = true,
      help = "take symbols and source lines from this ELF file or list (nm, System.map), too" },
    { "--no-assist", help = "do nothing for a KVM that lacks something: fail, and say what" },
    { "--screen", help = "the whole terminal is the guest's screen, text or framebuffer, and its"
        .. " keyboard; implies --irqchip pic unless another one is named" },
    { "--view", value = "PORT", default = "0", type = parse_port,
      help = "a page that shows its screen to browsers of this machine, and takes keys; the address"
        .. " is printed. --view=8080 chooses the port" },
    { "--screenshot", value = "FILE",
      help = "at the end the screen as a picture (PNG): the framebuffer, or the text screen" },
    { "--json", help = "at the end one JSON object on stdout, and nothing else there: how the VMs"
        .. " ended, their output, counters and registers (docs/json.md)" },
    { "--stats", help = "at the end a table on stderr: what each port cost, and who served it" },
    { "--gdb", value = "WHERE", type = parse_gdb, help = "the guest waits for gdb before its first"
        .. " instruction: a port, HOST:PORT or unix:PATH for gdb's \"target remote\"" },
    { "--gdb-on-crash", value = "WHERE", type = parse_gdb,
      help = "a guest that dies stays there until gdb has looked at it" },
    { "--jail", value = "LEVEL", default = "best", type = { "best", "strict", "log" },
      help = "the process keeps nothing but what is named here, before it opens an image;"
        .. " --jail=strict refuses to run where the kernel lacks a wall, best (the default) says"
        .. " so, log keeps all and tells what would be refused" },
    { "--jail-files", help = "in a jail guests may make files of their own; their vCPUs' threads"
        .. " can then open what is named" },
    { "--policy", value = "FILE", help = "a jail of what this policy file allows, which the command"
        .. " line must keep to" },
    { "--prompt", "-p", help = "load the images, do not run them: a Lua prompt with the VM in the"
        .. " global vm (several: in the list vms)" },
    { "--trace", "-t", help = "every exit as a line on stderr; implies --no-coalesce" },
    { "--trace-file", value = "FILE", help = "the same in a file, with times and interrupts: trace"
        .. " events (Perfetto) in FILE.json, JSON in FILE.jsonl, text in any other" },
    { "--trace-calls", help = "in that file calls, too, indented by depth; every instruction is"
        .. " stepped for it, which takes time" },
    { "--trace-instructions", help = "and every instruction" },
    { "--trace-limit", value = "SIZE", type = "size", help = "bytes of that file (64M)" },
  },
  rest = { key = "guests", value = "guest.bin", min = 1,
           help = "image: flat binary, boot sector, disk, ELF, Multiboot or Limine file, Linux"
             .. " kernel; or a snapshot, which goes on" },
  notes = "Exit status: 0 halted, or stopped by Ctrl-A x; the guest's own code (255 at most) if it"
    .. "\nexited; 1 could not start; 2 wrong command line; 124 deadline or limit; 134 shutdown\n"
    .. "(triple fault) or fault. Of several VMs the highest.",
}

---minikvm prompt: what run --prompt does.
M.prompt_spec = {
  program = "minikvm prompt", rest = M.spec.rest, options = {},
  summary = "Loads guest images or snapshots, and is a Lua prompt with the VM in the global vm\n"
    .. "(several: in the list vms). help tells what there is.",
}
local RUN_ALONE <const> = { ["--prompt"] = true, ["--jail"] = true, ["--jail-files"] = true,
                            ["--policy"] = true, ["--screen"] = true, ["--screenshot"] = true,
                            ["--stats"] = true, ["--json"] = true }
for _, option in ipairs(M.spec.options) do
  if not RUN_ALONE[option[1]] then
    table.insert(M.prompt_spec.options, option)
  end
end

---The limits given, by name; nil and a message when one is given twice.
local function collect_limits(list)
  local limits = {}
  for _, limit in ipairs(list or {}) do
    if limits[limit[1]] then return nil, ("--limit %s is given twice"):format(limit[1]) end
    limits[limit[1]] = limit[2]
  end
  return limits
end

---Reads a command line.
---@param argv string[]
---@param prompt boolean?  it is that of minikvm prompt
---@return table? opts  nil when there is nothing to run
---@return integer? status  then, of the process
function M.parse(argv, prompt)
  local spec = prompt and M.prompt_spec or M.spec
  local opts, status = args.handle(spec, argv)
  if not opts then return nil, status end
  local why
  opts.prompt = opts.prompt or prompt
  opts.limit, why = collect_limits(opts.limit)
  if opts.name and #opts.name > #opts.guests then
    why = ("%d names for %d image%s"):format(#opts.name, #opts.guests,
                                             #opts.guests == 1 and "" or "s")
  elseif opts.screenshot and (#opts.guests > 1 or opts.prompt) then
    why = "--screenshot is for one image that runs"
  elseif opts.screen and (#opts.guests > 1 or opts.prompt or opts.json or opts.input) then
    why = "--screen is for one image that runs, without --json and --input"
  elseif opts.view and #opts.guests > 1 then
    why = "--view is for one image"
  elseif opts.trace_file and #opts.guests > 1 then
    why = "--trace-file is for one image"
  elseif opts.json and opts.prompt then
    why = "--json is for images that run"
  elseif opts.jail_files and not (opts.jail or opts.policy) then
    why = "--jail-files is for --jail"
  elseif (opts.jail or opts.policy) and opts.prompt then
    why = "--jail is for images that run: at a prompt everything may be needed"
  elseif not opts.trace_file and (opts.trace_limit or opts.trace_calls
                                  or opts.trace_instructions) then
    why = "--trace-limit, --trace-calls and --trace-instructions are for a --trace-file"
  elseif opts.gdb and opts.gdb_on_crash then
    why = "--gdb or --gdb-on-crash: with --gdb it stays there after a crash, too"
  elseif (opts.gdb or opts.gdb_on_crash) and #opts.guests > 1 then
    why = "--gdb is for one image"
  end
  if why then return nil, args.complain(spec, why) end
  if opts.prompt then opts.limit.seconds = opts.limit.seconds or opts.deadline end
  return opts
end

return M
