---@meta _

---vm.console: what a guest prints and reads by hypercalls, UART and port 0xe9.
---@class minikvm.console
local console = {}

---Queues input, before or while the guest runs.
---@param text string
---@return minikvm.console? console
---@return string? why
---@return string? code `"EPIPE"` after eof; `"ENOBUFS"`: 16 MiB wait
function console:send(text) end

---The same with a newline.
---@param text string
---@return minikvm.console? console
---@return string? why
---@return string? code
function console:sendline(text) end

---Takes input that the guest has not read, and waits for the first byte.
---@param count? integer 1
---@param seconds? number for ever
---@return string? bytes
---@return string? why
---@return string? code `"ETIMEDOUT"`, `"ENODATA"` at the end of input
function console:read(count, seconds) end

---Inside a handler: prints what the guest of this vCPU would have.
---@param text string
function console:write(text) end

---Nothing follows what is queued.
---@return minikvm.console console
function console:eof() end

---What the guest printed, the newest MiB of it.
---@param cpu? integer real mode: which vCPU's; 0
---@return string text
---@return integer total bytes in all
function console:text(cpu) end

---Calls `fn` for every line, without its newline. From then on output does not go to stdout by itself.
---@param fn fun(line: string, cpu: integer, more: boolean) `more`: a piece of a line longer than 1 MiB
---@return minikvm.listener
function console:on_line(fn) end

---What console:on_line returns; a `<close>` variable takes it off.
---@class minikvm.listener
---@field hits integer lines seen
---@field private fn function
---@field private list table
---@field private console minikvm.console
---@field private removed? boolean
local listener = {}

---Takes it off.
function listener:remove() end

---Options of `console:type`.
---@class minikvm.type.options
---@field echo? boolean `false`: does not wait for the echo of each character
---@field delay? number seconds in between
---@field timeout? number of the waits
---@field budget? integer|minikvm.budget of the waits
---@field cpu? integer whose input; 0

---Types character by character and waits for the echo of each; raises when one does not come.
---@param text string
---@param options? minikvm.type.options
---@return minikvm.console console
function console:type(text, options) end

---How far the guest may get while it is waited for.
---@class minikvm.budget
---@field exits? integer of the vCPU
---@field ticks? integer of the guest's timer

---Options of `console:expect` and `console:try_expect`.
---@class minikvm.expect.options
---@field timeout? number seconds; 10
---@field budget? integer|minikvm.budget a number of exits, or what the table says
---@field plain? boolean `true`: text, not a pattern
---@field stop? boolean `true`: a started VM is stopped at the byte, too; `false`: one that the wait runs is stopped up to 10 ms later
---@field cpu? integer whose output; 0

---Waits until the guest has printed what a Lua pattern, or one of at most 16, matches; raises when it does not.
---@param patterns string|string[]
---@param options? minikvm.expect.options
---@return integer index of the pattern
---@return string|integer ... captures, or the whole match
function console:expect(patterns, options) end

---The same, but a failed wait returns nil.
---@param patterns string|string[]
---@param options? minikvm.expect.options
---@return integer? index
---@return string|integer ... captures; or why and `"ETIMEDOUT"`, `"EDQUOT"`, `"ESHUTDOWN"`, `"ECANCELED"`, `"E2BIG"`
function console:try_expect(patterns, options) end

---Options of `console:forbid`.
---@class minikvm.forbid.options
---@field plain? boolean `true`: text, not a pattern
---@field cpu? integer whose output; that of all
---@field stop? boolean `true`: the run ends at the very byte

---From now on output that a pattern matches ends the run with reason `"forbidden"`.
---@param pattern string
---@param options? minikvm.forbid.options
---@return minikvm.forbid.handle
function console:forbid(pattern, options) end

---What console:forbid returns; a `<close>` variable allows it again.
---@class minikvm.forbid.handle
---@field hits integer how often it was printed
---@field private console minikvm.console
---@field private watches table
---@field private removed? boolean
local forbid_handle = {}

---Allows it again; twice does no harm.
function forbid_handle:remove() end

---All that is printed from now on goes to this file, too, emptied first; nil ends it.
---@param path? string
---@return minikvm.console? console
---@return string? why
---@return string? code
function console:log(path) end

---Input from stdin and output to stdout until the user types Ctrl-A x, or the VM ends.
---@return minikvm.reason? reason
---@return minikvm.result? info
function console:interact() end

---Whether output goes to stdout.
---@param on boolean
---@return minikvm.console console
function console:echo(on) end

---Input from stdin, output to stdout.
---@return minikvm.console console
function console:attach() end

---Undoes attach: input only by send, output only by text and on_line.
---@return minikvm.console console
function console:detach() end

---Input from a file, to its end.
---@param path string
---@return minikvm.console? console
---@return string? why
---@return string? code
function console:input(path) end

---Output to a file, emptied first, instead of stdout.
---@param path string
---@return minikvm.console? console
---@return string? why
---@return string? code
function console:output(path) end

---vm:screen(): 80 × 25 cells of text in video memory, and the picture in a framebuffer.
---@class minikvm.screen
---@field private vm minikvm.vm
local screen = {}

---Options of `screen:text`.
---@class minikvm.screen.text.options
---@field cursor? string what stands where the cursor is
---@field blanks? boolean `true`: with the blanks that the guest wrote at the ends of lines

---25 lines of UTF-8, as tostring gives them.
---@param options? minikvm.screen.text.options
---@return string
function screen:text(options) end

---One line.
---@param y integer 0 to 24
---@return string
function screen:row(y) end

---Where the cursor is, with minikvm.devices.vga; nil when it is off or elsewhere.
---@return integer? column
---@return integer? row
---@return integer? first line of 16
---@return integer? last
function screen:cursor() end

---Options of `screen:png`.
---@class minikvm.screen.png.options
---@field font? string a console font (.psf, .psf.gz)
---@field scale? integer 1 to 8
---@field cursor? boolean `false`: without it

---A picture in PNG, of the framebuffer when there is one, else of the text.
---@param path? string without it the bytes are returned
---@param options? minikvm.screen.png.options
---@return string|true|nil png
---@return string? why
---@return string? code
function screen:png(path, options) end

---Options of `screen:expect`.
---@class minikvm.screen.expect.options
---@field timeout? number seconds; 10
---@field budget? integer|minikvm.budget how far the guest may get
---@field plain? boolean `true`: text, not a pattern
---@field stop? boolean as of console:expect

---Waits until the text matches, looked at after every exit and every 10 ms; raises when it does not.
---@param patterns string|string[]
---@param options? minikvm.screen.expect.options
---@return integer index
---@return string|integer ...
function screen:expect(patterns, options) end

---A character and its colours.
---@class minikvm.screen.cell
---@field char string UTF-8
---@field code integer in code page 437
---@field fg integer 0 to 15
---@field bg integer 0 to 7; to 15 where nothing blinks
---@field blink boolean whether it blinks

---One cell.
---@param x integer 0 to 79
---@param y integer 0 to 24
---@return minikvm.screen.cell
function screen:cell(x, y) end

---Width and height of the framebuffer; nil when there is none.
---@return integer? width
---@return integer? height
function screen:size() end

---A pixel of the framebuffer: red, green and blue, 0 to 255.
---@param x integer
---@param y integer
---@return integer red
---@return integer green
---@return integer blue
function screen:pixel(x, y) end

---vm.clock: the VM's time, which goes while it runs, and functions called at a time.
---@class minikvm.clock
---@field now number seconds; 0 for a VM that never ran
local clock = {}

---Calls a function once.
---@param seconds number
---@param fn fun()
---@return minikvm.timer
function clock:after(seconds, fn) end

---Calls a function again and again, on a grid.
---@param seconds number at least 10 microseconds
---@param fn fun()
---@param first? number seconds until the first time
---@return minikvm.timer
function clock:every(seconds, fn, first) end

---What clock:after and clock:every return; a `<close>` variable ends it.
---@class minikvm.timer
---@field hits integer how often it was called
---@field left? number seconds until it calls; nil when it does not any more
local timer = {}

---Ends it.
function timer:remove() end

---vm.keyboard: types at the guest's i8042. Needs `irqchip = "pic"`.
---@class minikvm.keyboard
local keyboard = {}

---Options of `keyboard:type`.
---@class minikvm.keyboard.options
---@field timeout? number seconds that the guest gets to read what does not fit

---Types ASCII on a US keyboard.
---@param text string
---@param options? minikvm.keyboard.options
---@return minikvm.keyboard? keyboard
---@return string? why
---@return string? code `"EINVAL"`: a character without a key; `"ENOBUFS"`: 4096 bytes wait
---@return integer? typed
function keyboard:type(text, options) end

---Presses 1 to 16 keys in order and releases them in reverse.
---@param name string `"ctrl"`, `"c"`, …
---@param ... string
---@return minikvm.keyboard keyboard
function keyboard:press(name, ...) end
