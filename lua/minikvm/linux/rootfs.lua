-- linux/rootfs.lua - what a Linux guest's first file system needs, whoever runs in it: mounts,
-- directories, the console; and the init that loads the modules and becomes the agent.

local M = {}

M.AGENT = "bin/minikvm-agent"

---How an init begins.
M.BEGIN = [[
#!/bin/sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
cd /root
]]

---What follows: the modules of kvm.initrd.
M.MODULES = [[
if [ -e /lib/modules/order ]; then
    while read -r m; do
        insmod /lib/modules/$m.ko || { echo "init: cannot load the module $m"; exit 1; }
    done </lib/modules/order
fi
]]

M.DIRECTORIES = { "proc", "sys", "dev", "tmp", "sbin", "usr/bin", "usr/sbin", "root" }
M.CONSOLE = { ["dev/console"] = { "c", 5, 1 } }

---Adds to the options of kvm.initrd what the agent takes; what is there already stays.
---@param o table  checked
function M.add_agent(o)
  o.busybox = o.busybox == nil or o.busybox
  o.init = o.init or M.BEGIN .. M.MODULES .. "exec /" .. M.AGENT .. "\n"
  local files, directories, nodes = {}, {}, {}
  for name, file in pairs(o.files or {}) do files[name] = file end
  for key, value in pairs(o.directories or {}) do
    if math.type(key) == "integer" then directories[value] = 493 else directories[key] = value end
  end
  for _, name in ipairs(M.DIRECTORIES) do directories[name] = directories[name] or 493 end -- 0755
  for name, node in pairs(o.nodes or {}) do nodes[name] = node end
  for name, node in pairs(M.CONSOLE) do nodes[name] = nodes[name] or node end
  files[M.AGENT] = { bytes = require "minikvm.linux.program" }
  o.files, o.directories, o.nodes = files, directories, nodes
end

return M
