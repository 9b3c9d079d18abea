-- escapes.lua - what a script may try to get out of its jail: one table for all specs of jails.
--
-- Each is a name and the body of a function that returns something true when it has got out. It has
-- all of Lua's libraries, lfs, `kvm` and `core`; F is a folder with inside/ (granted) and outside/,
-- where nothing may be read, made or changed.

local M = {}

M.ATTEMPTS = {
  { "read a file outside", "return io.open(F .. '/outside/secret')" },
  { "by way of a directory above", "return io.open(F .. '/inside/../outside/secret')" },
  { "by a symbolic link inside", "return io.open(F .. '/inside/link')" },
  { "by the process's root", "return io.open('/proc/self/root' .. F .. '/outside/secret')" },
  { "by its working directory", "return io.open('/proc/self/cwd/README.md')" },
  { "read line by line", "return io.lines(F .. '/outside/secret')" },
  { "make a file outside", "return io.open(F .. '/outside/new', 'w')" },
  { "append to a file outside", "return io.open(F .. '/outside/secret', 'a')" },
  { "make one by way of a directory above", "return io.open(F .. '/inside/../outside/new', 'w')" },
  { "write through a link inside", "return io.open(F .. '/inside/link', 'r+')" },
  { "a temporary file", "return io.tmpfile()" },
  { "a name of a temporary file", "return os.tmpname()" },
  { "remove a file outside", "return os.remove(F .. '/outside/secret')" },
  { "move a file out", "return os.rename(F .. '/inside/given', F .. '/outside/given')" },
  { "move a file in", "return os.rename(F .. '/outside/secret', F .. '/inside/secret')" },
  { "move a directory in", "return os.rename(F .. '/outside', F .. '/inside/d')" },
  { "users of the host", "return io.open('/etc/passwd')" },
  { "passwords of the host", "return io.open('/etc/shadow')" },
  { "libraries for all programs", "return io.open('/etc/ld.so.preload', 'w')" },
  { "shared memory", "return io.open('/dev/shm/minikvm-escape', 'w')" },
  { "a file in /tmp", "return io.open('/tmp/minikvm-escape', 'w')" },
  { "its own program", "return io.open('/proc/self/exe')" },
  { "its own memory", "return io.open('/proc/self/mem', 'r+b')" },
  { "its own memory, as its thread's", "return io.open('/proc/thread-self/mem', 'r+b')" },
  { "its own memory map", "return io.open('/proc/self/maps')" },
  { "its environment", "return io.open('/proc/self/environ')" },
  { "another process's environment", "return io.open('/proc/1/environ')" },
  { "another process's memory", "return io.open('/proc/1/mem')" },
  { "who else is there", "return require('lfs').dir('/proc')" },
  { "the host's memory", "return io.open('/dev/mem')" },
  { "a disk of the host", "return io.open('/dev/vda') or io.open('/dev/sda')" },
  { "the kernel's messages", "return io.open('/dev/kmsg') or io.open('/proc/kmsg')" },
  { "tell the kernel", "return io.open('/proc/sysrq-trigger', 'w')" },
  { "what handles core files", "return io.open('/proc/sys/kernel/core_pattern', 'r+')" },
  { "change the kernel", "return io.open('/sys/kernel/mm/ksm/run', 'w')" },
  { "control groups", "return io.open('/sys/fs/cgroup/cgroup.procs', 'r+')" },
  { "a program by os.execute", "return os.execute('true')" },
  { "whether there is a shell", "return os.execute()" },
  { "a program by io.popen", "return io.popen('echo out'):read()" },
  { "a program by the runner's function",
    "local p = core.spawn({ '/bin/true' }, {}) return p and p.pid" },
  { "Lua code outside", "return loadfile(F .. '/outside/script.lua')" },
  { "Lua code outside, run", "return dofile(F .. '/outside/script.lua')" },
  { "Lua code outside, required",
    "package.path = F .. '/outside/?.lua' return require 'script'" },
  { "a worker's script outside", "return kvm.worker(F .. '/outside/script.lua'):wait(5)" },
  { "a worker that opens a file",
    "local w = kvm.worker(function(_, path) return io.open(path) and 1 end, F .. '/outside/secret')"
    .. " return (select(2, w:wait(5)))" },
  { "a worker that makes a file",
    "local w = kvm.worker(function(_, path) return io.open(path, 'w') and 1 end, F .. '/outside/n')"
    .. " return (select(2, w:wait(5)))" },
  { "a worker that starts a program",
    "local w = kvm.worker(function() return os.execute 'true' end)"
    .. " return (select(2, w:wait(5)))" },
  { "a worker with a jail of its own",
    "local w = kvm.worker(function(_, path) return require('minikvm').jail{ read = path } and 1 "
    .. "end, F .. '/outside') return (select(2, w:wait(5)))" },
  { "a jail once more, with more", "return kvm.jail{ change = F .. '/outside' }" },
  { "a library outside", "return package.loadlib(F .. '/outside/secret', '*') or "
    .. "package.searchpath('secret', F .. '/outside/?')" },
  { "list a directory", "return pcall(require('lfs').dir, F .. '/outside')" },
  { "make a directory", "return require('lfs').mkdir(F .. '/outside/d')" },
  { "remove a directory", "return require('lfs').rmdir(F .. '/outside/empty')" },
  { "make a link to the outside",
    "return require('lfs').link(F .. '/outside/secret', F .. '/inside/hard')" },
  { "make a symbolic link", "return require('lfs').link('/etc', F .. '/inside/etc', true)" },
  { "change the directory", "return require('lfs').chdir('/')" },
  { "touch a file", "return require('lfs').touch(F .. '/outside/secret', 0)" },
  { "lock a directory", "return require('lfs').lock_dir(F .. '/outside')" },
  { "debugging information of a file outside",
    "return kvm.vm():load_symbols(F .. '/outside/secret')" },
  { "an image outside", "return kvm.vm():load(F .. '/outside/secret')" },
  { "a module outside",
    "return kvm.vm():load({ bytes = 'x' }, { modules = { F .. '/outside/secret' } })" },
  { "a snapshot outside", "return kvm.load_snapshot(F .. '/outside/secret')" },
  { "a snapshot that is saved outside", "return kvm.vm():snapshot():save(F .. '/outside/new')" },
  { "a disk outside", "return kvm.disk{ path = F .. '/outside/secret' }" },
  { "a disk outside, to write", "return kvm.disk{ path = F .. '/outside/secret', write = true }" },
  { "a disk of a server", "return kvm.disk{ path = 'nbd://127.0.0.1' }" },
  { "a guest's files outside",
    "local p = kvm.files{ root = F .. '/outside', rules = { { '*', 'ro' } } }"
    .. " return kvm.vm{ files = p }.files:open('secret')" },
  { "a guest's output into a file outside",
    "return kvm.vm().console:output(F .. '/outside/new')" },
  { "a guest's input from a file outside",
    "return kvm.vm().console:input(F .. '/outside/secret')" },
  { "a log outside", "return kvm.vm().console:log(F .. '/outside/new')" },
  { "a picture outside", "return kvm.vm():screen():png(F .. '/outside/new')" },
  { "frames into a file outside",
    "return require('minikvm.devices.net').capture():save(F .. '/outside/new')" },
  { "a file of minikvm's outside", "return core.write_file(F .. '/outside/new', 'x')" },
  { "records of minikvm's outside", "return core.open_stream(F .. '/outside/new')" },
  { "listen for gdb", "return kvm.vm():gdb{ at = '127.0.0.1:0' }" },
  { "listen for gdb by a Unix socket", "return kvm.vm():gdb{ at = 'unix:' .. F .. '/outside/s' }" },
  { "the host's network", "return io.open('/dev/net/tun', 'r+b')" },
  { "a tap of the host's", "return core.keep_tap 'mkescape0'" },
  { "remove a socket outside", "core.clear_socket(F .. '/outside/secret') "
    .. "return not require('lfs').attributes(F .. '/outside/secret')" },
}

local function write(path, text)
  assert(io.open(path, "wb")):write(text):close()
  return path
end

---Makes the folder F.
---@param lfs table
---@return string
function M.make_folder(lfs)
  local folder = os.tmpname()
  os.remove(folder)
  for _, name in ipairs{ "", "/inside", "/outside", "/outside/empty" } do
    assert(lfs.mkdir(folder .. name))
  end
  write(folder .. "/inside/given", "given")
  write(folder .. "/inside/guest.bin", "\xb0\x41\xe6\xe9\xf4") -- mov al, 'A'; out 0xe9, al; hlt
  write(folder .. "/outside/secret", "secret")
  write(folder .. "/outside/script.lua", "return 1")
  assert(lfs.link("../outside/secret", folder .. "/inside/link", true))
  return folder
end

---Lua code that tries all, and prints the numbers of those that got out, and "tried all".
---@return string
function M.code()
  local body = {}
  for i, attempt in ipairs(M.ATTEMPTS) do
    body[i] = ("try(%d, function() %s end)"):format(i, attempt[2])
  end
  return [[
    local function try(i, fn)
      local ok, result = pcall(fn)
      if ok and result then print("out: " .. i) end
    end
  ]] .. table.concat(body, "\n") .. "\nprint 'tried all'"
end

---Raises when one of them got out, or not all were tried.
---@param out string
function M.check(out)
  for number in out:gmatch "out: (%d+)" do
    error("got out: " .. M.ATTEMPTS[tonumber(number)][1], 2)
  end
  assert(out == "tried all\n", out)
end

return M
