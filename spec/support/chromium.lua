-- chromium.lua - pages looked at in a real browser, where Chromium is installed (Debian: chromium).

local M = {}

---Its program; nil where it is not installed.
M.program = (function()
  for _, name in ipairs{ "chromium", "chromium-browser", "google-chrome" } do
    local pipe <close> = assert(io.popen("command -v " .. name))
    local path = pipe:read "l"
    if path and path ~= "" then return path end
  end
end)()

---The document of a page as it is when its scripts have run for so long.
---@param url string
---@param milliseconds? integer  of the page's own time
---@return string html
function M.dom(url, milliseconds)
  local home = os.tmpname()
  os.remove(home)
  local pipe <close> = assert(io.popen(("HOME=%s timeout 60 %s --headless --no-sandbox "
    .. "--disable-gpu --no-first-run --user-data-dir=%s --virtual-time-budget=%d --dump-dom '%s' "
    .. "2>/dev/null; rm -rf %s"):format(home, M.program, home, milliseconds or 1000, url, home)))
  return pipe:read "a"
end

return M
