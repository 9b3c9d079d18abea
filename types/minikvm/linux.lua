---@meta _

---vm:linux(): what the guest of mode `"linux"` can be asked to do by the agent in its initramfs. It runs while a method waits for it; when the agent does not answer, the method raises.
---@class minikvm.linux
---@field vm minikvm.vm the VM
---@field private channel table
local linux = {}

---Options of `linux:wait`.
---@class minikvm.linux.wait.options
---@field timeout? number seconds; 60

---Lets the guest boot until its agent is there; the other methods do it by themselves.
---@param options? minikvm.linux.wait.options
---@return minikvm.linux linux
function linux:wait(options) end

---Options of `linux:sh`.
---@class minikvm.linux.sh.options
---@field timeout? number seconds; 10
---@field input? string what it reads
---@field limit? minikvm.size bytes that it may print; 256M

---Runs a command of /bin/sh.
---@param command string
---@param options? minikvm.linux.sh.options
---@return string output stdout and stderr
---@return integer status 128 + n after signal n
function linux:sh(command, options) end

---Options of `linux:write`.
---@class minikvm.linux.write.options
---@field timeout? number seconds; 10
---@field mode? integer permissions; 0644

---Makes a file, or replaces what is in it.
---@param path string
---@param bytes string
---@param options? minikvm.linux.write.options
---@return true? written
---@return string? why
---@return string? code
function linux:write(path, bytes, options) end

---Options of `linux:read`.
---@class minikvm.linux.read.options
---@field timeout? number seconds; 10
---@field limit? minikvm.size how many bytes there may be; 256M

---The bytes of a file.
---@param path string
---@param options? minikvm.linux.read.options
---@return string? bytes
---@return string? why
---@return string? code
function linux:read(path, options) end

---Options of `linux:dmesg`.
---@class minikvm.linux.dmesg.options
---@field timeout? number seconds; 10
---@field level? string only lines at least so grave: `"err"`, `"warn"`, …

---The kernel's log.
---@param options? minikvm.linux.dmesg.options
---@return string
function linux:dmesg(options) end

---Options of `linux:renew`.
---@class minikvm.linux.renew.options
---@field clock? boolean|number `true` (the host's time), seconds since 1970, or `false`
---@field random? boolean|string `true` (64 bytes of the host's), up to 256 bytes, or `false`

---Sets the wall clock and stirs the random numbers when the guest runs next.
---@param options? minikvm.linux.renew.options
---@return minikvm.linux linux
function linux:renew(options) end

---Machines that go on from here, each with random numbers of its own: a list of `n`, or one without `n`.
---@param n? integer
---@return minikvm.linux[]|minikvm.linux
function linux:fork(n) end
