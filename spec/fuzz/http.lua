-- http.lua - what http.c calls: a connection to a view, which is asked for a page or a WebSocket,
-- or is one already and gets frames (lua/minikvm/view/server.lua). The first byte says which.

local server = require "minikvm.view.server"

local TOKEN <const> = ("0"):rep(32)
local UPGRADED <const> = ("GET /%s/ws HTTP/1.1\r\nHost: localhost:80\r\nUpgrade: websocket\r\n"
  .. "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
  .. "Sec-WebSocket-Version: 13\r\n\r\n"):format(TOKEN)

local connect = server.service(80, TOKEN, "page", function(codes)
  assert(#codes >= 1 and #codes <= 32)
end)

return function(bytes)
  if bytes == "" then return end
  local feed, watches = connect(), bytes:byte() & 1 == 1
  if watches then assert(select(2, feed(UPGRADED)) == "watch") end
  -- In two pieces, as in one.
  local rest, whole = bytes:sub(2), connect()
  if watches then whole(UPGRADED) end
  local all, verdict = whole(rest)
  local out, what = feed(rest:sub(1, #rest // 2))
  if what ~= "leave" then
    local more, news = feed(rest:sub(#rest // 2 + 1))
    out, what = out .. more, news or what
  end
  assert(#all <= #rest + 1024 and (#rest > 4096 or all == out and verdict == what))
end
