-- A host without KVM: nothing crashes, and everything says what is missing.

local process = require "support.process"

-- Words before the program that take /dev/kvm away from it, in a mount namespace of its own.
local function within(mounts)
  return ("unshare -m sh -c '%s && exec \"$0\" \"$@\"'"):format(mounts)
end

local HOSTS = {
  ENOENT = within "mount -t tmpfs none /dev",
  ENOTTY = within "mount --bind /dev/null /dev/kvm",
  EACCES = "setpriv --reuid 65534 --regid 65534 --clear-groups",
}

local PROBE <const> = [[
  local p = kvm.probe()
  print("probe", p.ok, p.code, p.why)
  local vm, why, code = kvm.vm{ name = "a" }
  print("vm", vm, code, why)
  print("same", why == p.why)
]]

local function possible(before)
  return os.execute(before .. " true 2>/dev/null")
end

---The output of Lua code in a child on such a host.
local function on(host, code)
  local path = process.script(code)
  os.execute("chmod 644 " .. path)
  local pipe = io.popen(process.command(path, host))
  local output = pipe:read "a"
  pipe:close()
  os.remove(path)
  return output
end

describe("without KVM", function()
  local TEXT = { ENOENT = "/dev/kvm: it does not exist", ENOTTY = "/dev/kvm: .*not",
                 EACCES = "/dev/kvm: permission denied: join" }

  for name, host in pairs(HOSTS) do
    it("probe() and vm() tell the reason and its name: " .. name, function()
      if not possible(host) then return pending "cannot take /dev/kvm away here" end
      local output = on(host, PROBE)
      if name == "EACCES" and not output:find "probe" then
        return pending "nobody else may read this checkout"
      end
      if name == "EACCES" and output:find "probe\ttrue" then
        return pending "everybody may use /dev/kvm here"
      end
      local code = name == "ENOTTY" and "E%u+" or name
      assert.matches("probe\tfalse\t" .. code .. "\t" .. TEXT[name], output)
      assert.matches("vm\tnil\t" .. code .. "\t" .. TEXT[name], output)
      assert.matches("same\ttrue", output)
    end)
  end

  it("the doctor says so and fails", function()
    if not possible(HOSTS.ENOENT) then return pending "cannot take /dev/kvm away here" end
    local pipe = io.popen(("%s %s doctor 2>&1"):format(HOSTS.ENOENT, process.program))
    local output = pipe:read "a"
    local ok = pipe:close()
    assert.matches("/dev/kvm", output)
    assert.is_falsy(ok)
  end)

  it("specs that need it are pending, not failing", function()
    if not possible(HOSTS.ENOENT) then return pending "cannot take /dev/kvm away here" end
    local busted = io.popen("command -v busted"):read "l"
    local pipe = io.popen(("%s %s %s --ignore-lua -o TAP spec/guests/guests_spec.lua "
      .. "spec/kvm/cpu_spec.lua")
      :format(HOSTS.ENOENT, process.program, busted))
    local output = pipe:read "a"
    assert.is_truthy(pipe:close(), output)
    assert.is_nil(output:find "not ok", output)
  end)
end)
