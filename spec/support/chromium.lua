-- chromium.lua - pages looked at in a real browser, where Chromium is installed (Debian: chromium).

local process = require "support.process"

local M = {}

---Its program; nil where it is not installed.
M.program = (function()
  for _, name in ipairs{ "chromium", "chromium-browser", "google-chrome" } do
    local pipe <close> = assert(io.popen("command -v " .. name))
    local path = pipe:read "l"
    if path and path ~= "" then return path end
  end
end)()

---The document of a page as it is when its scripts have run for so long. VMs of the caller's go on
---meanwhile.
---@param url string
---@param milliseconds? integer  of the page's own time
---@return string html
function M.dom(url, milliseconds)
  local home, out = os.tmpname(), os.tmpname()
  os.remove(home)
  os.execute(("{ HOME=%s timeout 60 %s --headless --no-sandbox --disable-gpu --no-first-run "
    .. "--user-data-dir=%s --virtual-time-budget=%d --dump-dom '%s' >%s 2>/dev/null; rm -rf %s; "
    .. ": >%s.end; } </dev/null &"):format(home, M.program, home, milliseconds or 1000, url, out,
                                           home, out))
  process.await(function()
    local file = io.open(out .. ".end")
    return file and file:close()
  end, 60)
  local file <close> = assert(io.open(out))
  os.remove(out)
  os.remove(out .. ".end")
  return file:read "a"
end

return M
