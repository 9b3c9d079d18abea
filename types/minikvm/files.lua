---@meta _

---Options of `kvm.files`.
---@class minikvm.files.options
---@field root? string the directory whose files the rules are about
---@field rules? [string, "deny"|"ro"|"cow"|"rw"|"shared-rw"][] `{ pattern, verdict }`; the first pattern that matches counts
---@field ["private"]? string directory where VMs keep what they make; by default it vanishes with the VM
---@field max_open? integer descriptors; 16
---@field max_bytes? minikvm.size bytes written in all
---@field max_file? minikvm.size size of a file
---@field max_files? integer files made
---@field audit? boolean `true`: keeps a log
---@field decide? fun(name: string, mode: "r"|"w"|"rw"): boolean|string|nil `false` or a narrower verdict takes away; `true` or nothing leaves it

---A file policy, from kvm.files.
---@class minikvm.files
local files = {}

---Keeps it from further VMs.
function files:close() end

---vm.files: what a VM did with its files, and the same service for the script.
---@class minikvm.vmfiles
local vmfiles = {}

---Opens a file under the VM's policy and quotas.
---@param name string
---@param mode? "r"|"w"|"a"|"r+"|"w+"|"a+"|integer `"r"`; or the flags of the file port
---@return integer? descriptor 0 to 15
---@return string? why
---@return string? code
function vmfiles:open(name, mode) end

---Reads up to `count` bytes, 16 MiB at most; `""` at the end of the file.
---@param descriptor integer
---@param count integer
---@return string? bytes
---@return string? why
---@return string? code
function vmfiles:read(descriptor, count) end

---Writes bytes.
---@param descriptor integer
---@param bytes string
---@return integer? written
---@return string? why
---@return string? code
function vmfiles:write(descriptor, bytes) end

---Moves the position.
---@param descriptor integer
---@param whence? "set"|"cur"|"end" `"cur"`
---@param offset? integer
---@return integer? position
---@return string? why
---@return string? code
function vmfiles:seek(descriptor, whence, offset) end

---The size of a file.
---@param descriptor integer
---@return integer? bytes
---@return string? why
---@return string? code
function vmfiles:size(descriptor) end

---Closes a descriptor.
---@param descriptor integer
---@return integer? zero
---@return string? why
---@return string? code
function vmfiles:close(descriptor) end

---The log, oldest first; raises when the policy was made without `audit = true`.
---@return minikvm.audit[] entries
---@return integer lost before those
function vmfiles:audit() end

---An entry of the log.
---@class minikvm.audit
---@field op string what was done
---@field name string of the file
---@field verdict string of the policy
---@field bytes integer read or written
---@field times integer how often
---@field error? string after a failure

---Path of the VM's private directory; nil while the VM has made no file.
---@return string?
function vmfiles:directory() end

---How much is used.
---@return minikvm.usage
function vmfiles:usage() end

---What files:usage returns.
---@class minikvm.usage
---@field open integer descriptors
---@field bytes integer written
---@field files integer made

---Options of `kvm.disk`.
---@class minikvm.disk.options
---@field path? string the image: a file, a block device, or the URI of a disk that an NBD server has
---@field write? boolean `true`: writes go to the file
---@field size? minikvm.size without `path`: bytes, sectors of 512, all zero
---@field bytes? string without `path`: what it begins with
---@field limit? minikvm.size how many bytes that were written may be in memory; 1G

---A disk, from kvm.disk; a `<close>` variable closes it.
---@class minikvm.disk
local disk = {}

---Reads bytes, 16 MiB at most.
---@param at integer
---@param length integer
---@return string? bytes
---@return string? why
---@return string? code `"EIO"`: the file was cut off, or cannot be read
function disk:read(at, length) end

---Writes bytes.
---@param at integer
---@param bytes string
---@return minikvm.disk? disk
---@return string? why
---@return string? code `"ENOSPC"`: `limit` is reached
function disk:write(at, bytes) end

---Waits until what was written to the file is on the host's disk.
---@return minikvm.disk? disk
---@return string? why
---@return string? code
function disk:flush() end

---Its size.
---@return integer bytes
function disk:size() end

---Bytes that writes take in memory; nil with `write`.
---@return integer?
function disk:written() end

---Closes it.
function disk:close() end

---Options of `kvm.initrd`.
---@class minikvm.initrd.options
---@field files? table<string, string|minikvm.initrd.file|fun(): string> by path: a path of the host, a table, or a function that returns the bytes
---@field directories? (string|integer)[]|table<string, integer> a list of paths, or permissions by path
---@field nodes? table<string, table> device nodes by path: `{ "c" or "b", major, minor, mode = }`
---@field links? table<string, string> symbolic links by path: where they lead
---@field modules? minikvm.initrd.modules kernel modules and what they need, as `lib/modules/NAME.ko`
---@field busybox? boolean|string `true`: the host's static one as `bin/busybox` and `bin/sh`; or the path of one
---@field init? string the text of `/init`, the first program
---@field agent? boolean `true`: the program behind vm:linux as `bin/minikvm-agent`, with busybox and an init
---@field gzip? boolean `true`: compressed

---A file of an initramfs. Options of `kvm.initrd.files`.
---@class minikvm.initrd.file
---@field path? string a file of the host
---@field bytes? string or what is in it
---@field mode? integer permissions; 0755

---Names of kernel modules. Options of `kvm.initrd.modules`.
---@class minikvm.initrd.modules
---@field [integer] string
---@field from? string `"/lib/modules/VERSION"`
