---@meta minikvm.cli.args

---Command lines by table, after `require "minikvm"`: see scripts/kvm_vmm.lua.
---@class minikvm.cli.args
---@field private completion function
local args = {}

---An option of a command line.
---@class minikvm.args.option
---@field [1] string the long name, `"--memory"`
---@field [2]? string the short one, `"-m"`
---@field value? string what its value is called; without it the option is a flag
---@field type? string|string[]|fun(text: string): any, string? `"string"`, `"integer"`, `"size"`, `"seconds"`, `"duration"`, a list of words, or a function
---@field repeatable? boolean may be given again; results in a list
---@field default? string its value may be left out, and is then this
---@field many? boolean takes all values up to the next option; results in a list
---@field help string what it is for

---A command line.
---@class minikvm.args.spec
---@field program string for messages
---@field summary? string what it does
---@field options minikvm.args.option[] its options
---@field rest? minikvm.args.rest the arguments that are no options; without it there are none
---@field notes? string more text at the end of the help

---Arguments that are no options.
---@class minikvm.args.rest
---@field key string of the result
---@field value string what each is called
---@field min? integer how many at least
---@field max? integer how many at most
---@field choices? string[] what each may be
---@field names? string[] what each is called in the usage line
---@field help? string what they are for

---Reads a command line.
---@param spec minikvm.args.spec
---@param argv string[]
---@return table? values by the long name, "-" replaced by "_"
---@return string? why
function args.parse(spec, argv) end

---The usage line, wrapped.
---@param spec minikvm.args.spec
---@return string
function args.usage(spec) end

---The help text.
---@param spec minikvm.args.spec
---@return string
function args.help(spec) end

---Says on stderr what is wrong with a command line.
---@param spec minikvm.args.spec
---@param message? string
---@return integer status 2
function args.complain(spec, message) end

---Reads a command line, and prints help or a message.
---@param spec minikvm.args.spec
---@param argv string[]
---@return table? values nil: nothing is left to do
---@return integer? status
function args.handle(spec, argv) end

---For a script without options: `--help` prints the comment at its head and ends the process, any other argument ends it with a message.
---@param argv table<integer, string> the script's `arg`
function args.explain(argv) end

return args
