-- view/server.lua - what is answered to who connects to a view: the page, by HTTP/1.1 (RFC 9112),
-- and frames of the WebSocket protocol (RFC 6455) without extensions.
--
-- Who connects is a stranger. A request has to name the token, this host and, from a script of a
-- browser, this origin; what is not as the protocols have it is refused, not guessed at, and ends
-- the connection. src/lua/view.c runs this on the I/O thread, in a Lua state that has no VM.

local base64 = require "minikvm.base64"

local M = {}

local HEAD <const> = 4096 -- bytes of a request
local LONGEST <const> = 1024 -- of a client's frame
local KEYS <const> = 32 -- scancodes in one message

local TEXT <const>, BINARY <const>, CLOSE <const>, PING <const>, PONG <const> = 1, 2, 8, 9, 10
---Why a connection is closed (RFC 6455, 7.4.1).
local WRONG <const>, REFUSED <const>, TOO_BIG <const> = 1002, 1003, 1009

-- --- the head of a request ---

---Fields that count; the others may be there.
local FIELDS <const> = { host = true, origin = true, upgrade = true, connection = true,
                         ["sec-websocket-key"] = true, ["sec-websocket-version"] = true }
local BODY <const> = { ["content-length"] = true, ["transfer-encoding"] = true }
local NAME <const> = "^([!#$%%&'*+%-.0-9A-Z^_`a-z|~]+):[ \t]*(.-)[ \t]*$" -- RFC 9110, 5.6.2

---@return string? path
---@return integer? status  of the refusal
local function parse_request_line(line)
  local path = line:match "^GET (/[!-~]*) HTTP/1%.1$"
  if path then return path end
  if not line:find "^GET " then return nil, line:find " " and 405 or 400 end
  return nil, line:find " HTTP/1%.1$" and 400 or 505
end

---A whole head, with its empty line. Only GET, without a body; a field that counts is there once.
---@param head string
---@return table? fields  by their names in lower case, and ":path"
---@return integer? status  that it is refused with
function M.parse(head)
  local line, rest = head:match "^(.-)\r\n(.*)\r\n$"
  local path, status = parse_request_line(line)
  if not path then return nil, status end
  local fields = { [":path"] = path }
  for field in rest:gmatch "(.-)\r\n" do
    local name, value = field:match(NAME)
    name = name and name:lower()
    if not name or value:find "[\0-\8\10-\31\127]" or BODY[name] or fields[name] then
      return nil, 400
    end
    if FIELDS[name] then fields[name] = value end
  end
  return fields
end

---Whether a field has this word in its list, in any case.
function M.lists(value, word)
  for item in (value or ""):gmatch "[^,]+" do
    if item:match("^[ \t]*(.-)[ \t]*$"):lower() == word then return true end
  end
  return false
end

-- --- the handshake (RFC 6455, 4.2.2) ---

local function rotate(word, bits)
  return (word << bits | word >> 32 - bits) & 0xffffffff
end

---By t // 20.
local ROUNDS <const> = {
  [0] = function(b, c, d) return (b & c | ~b & d) + 0x5a827999 end,
  function(b, c, d) return (b ~ c ~ d) + 0x6ed9eba1 end,
  function(b, c, d) return (b & c | b & d | c & d) + 0x8f1bbcdc end,
  function(b, c, d) return (b ~ c ~ d) + 0xca62c1d6 end,
}

local function sha1_block(h, block)
  local w = { (">" .. ("I4"):rep(16)):unpack(block) }
  for t = 17, 80 do w[t] = rotate(w[t - 3] ~ w[t - 8] ~ w[t - 14] ~ w[t - 16], 1) end
  local a, b, c, d, e = table.unpack(h)
  for t = 0, 79 do
    local next_a = rotate(a, 5) + ROUNDS[t // 20](b, c, d) + e + w[t + 1] & 0xffffffff
    a, b, c, d, e = next_a, a, rotate(b, 30), c, d
  end
  for i, value in ipairs{ a, b, c, d, e } do h[i] = h[i] + value & 0xffffffff end
end

---RFC 3174: the handshake is made of it; it protects nothing there.
local function sha1(bytes)
  local h = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0 }
  local all = bytes .. "\x80" .. ("\0"):rep((55 - #bytes) % 64) .. (">I8"):pack(8 * #bytes)
  for at = 1, #all, 64 do sha1_block(h, all:sub(at, at + 63)) end
  return (">I4I4I4I4I4"):pack(table.unpack(h))
end

---Sec-WebSocket-Accept for a key.
---@param key string
---@return string
function M.accept(key)
  return base64.encode(sha1(key .. "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
end

-- --- frames (RFC 6455, 5.2) ---

---The header of a whole message in one frame.
---@param opcode integer
---@param length integer
---@return string
function M.header(opcode, length)
  local first = 0x80 | opcode
  if length < 126 then return string.char(first, length) end
  if length < 65536 then return (">BBI2"):pack(first, 126, length) end
  return (">BBI8"):pack(first, 127, length)
end

---The header of a picture, for core.view_publish().
---@param length integer
---@return string
function M.picture(length)
  return M.header(BINARY, length)
end

local KNOWN <const> = { [TEXT] = true, [BINARY] = true, [CLOSE] = true, [PING] = true,
                        [PONG] = true }

---What the first two bytes say is wrong. Messages in several frames are refused.
local function wrong_header(first, second)
  local opcode, length, final = first & 15, second & 127, first & 0x80 ~= 0
  if first & 0x70 ~= 0 or second & 0x80 == 0 then return WRONG end -- a client masks what it sends
  if opcode == 0 or KNOWN[opcode] and not final then return opcode >= CLOSE and WRONG or REFUSED end
  if not KNOWN[opcode] or opcode >= CLOSE and length > 125 then return WRONG end
  return length == 127 and TOO_BIG or nil
end

local function unmask(data, mask)
  local bytes, key = { data:byte(1, -1) }, { mask:byte(1, 4) }
  for i = 1, #bytes do bytes[i] = bytes[i] ~ key[(i - 1) % 4 + 1] end
  return string.char(table.unpack(bytes))
end

---The frame that begins what a client has sent: nothing while more must come; nil and why the
---connection is to be closed; or what it is and has.
---@param bytes string
---@return integer? opcode
---@return string|integer|nil data
---@return integer? length  of all of it
function M.frame(bytes)
  if #bytes < 2 then return end
  local first, second = bytes:byte(1, 2)
  local why = wrong_header(first, second)
  if why then return nil, why end
  local length, at = second & 127, 3
  if length == 126 then
    if #bytes < 4 then return end
    length, at = (">I2"):unpack(bytes, 3)
    if length < 126 then return nil, WRONG end
    if length > LONGEST then return nil, TOO_BIG end
  end
  local last = at + 3 + length
  if #bytes < last then return end
  return first & 15, unmask(bytes:sub(at + 4, last), bytes:sub(at, at + 3)), last
end

local function message(opcode, data)
  return M.header(opcode, #data) .. data
end

-- --- a connection ---

---The page may load nothing, be framed by nobody, and tells nobody its address: it has the token.
local function page_head(own)
  return table.concat({
    "HTTP/1.1 200 OK", "Content-Type: text/html; charset=utf-8", "Content-Length: " .. #own.page,
    "Cache-Control: no-store", "Referrer-Policy: no-referrer", "X-Content-Type-Options: nosniff",
    "X-Frame-Options: DENY",
    "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src "
      .. "'unsafe-inline'; img-src data:; connect-src 'self' "
      .. ("ws://127.0.0.1:%d ws://localhost:%d; "):format(own.port, own.port)
      .. "frame-ancestors 'none'; base-uri 'none'",
    "Connection: close", "", "",
  }, "\r\n")
end

local function refuse(status, reason, text)
  local more = status == 426 and "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n" or ""
  return ("HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    .. "Connection: close\r\n%s\r\n%s\n"):format(status, reason, #text + 1, more, text), "leave"
end

---"127.0.0.1:PORT" or "localhost:PORT" behind `before`: what resolves to us under any other name is
---somebody else's page (DNS rebinding).
local function is_ours(own, text, before)
  return text == ("%s127.0.0.1:%d"):format(before, own.port)
    or text == ("%slocalhost:%d"):format(before, own.port)
end

---What follows the token in "/TOKEN/…". In the same time whatever was sent.
local function behind_token(own, path)
  local sent, rest = path:match "^/([^/]*)/(.*)$"
  if not sent or #sent ~= #own.token then return nil end
  local differs = 0
  for i = 1, #sent do differs = differs | sent:byte(i) ~ own.token:byte(i) end
  return differs == 0 and rest or nil
end

local function begin_watching(request)
  local key = request["sec-websocket-key"]
  if not M.lists(request.upgrade, "websocket") or not M.lists(request.connection, "upgrade")
    or not key or #key ~= 24 then
    return refuse(400, "Bad Request", "this is for WebSockets")
  elseif request["sec-websocket-version"] ~= "13" then
    return refuse(426, "Upgrade Required", "WebSocket's version is 13")
  end
  return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    .. ("Sec-WebSocket-Accept: %s\r\n\r\n"):format(M.accept(key)), "watch"
end

local function answer(own, head)
  local request, status = M.parse(head)
  if not request then
    return refuse(status, "Refused", "this is no request that can be answered here")
  end
  local what, origin = behind_token(own, request[":path"]), request.origin
  if not is_ours(own, request.host, "") or origin and not is_ours(own, origin, "http://") then
    return refuse(403, "Forbidden", "another host or origin")
  elseif what == "" then
    return page_head(own) .. own.page, "leave"
  elseif what == "ws" then
    return begin_watching(request)
  end
  return refuse(404, "Not Found", "the address has a token: take the one that was printed")
end

---What a whole message is answered with.
local function serve(own, opcode, data)
  if opcode == PING then
    return message(PONG, data)
  elseif opcode == CLOSE then
    return message(CLOSE, #data < 2 and "" or data:sub(1, 2)), "leave"
  elseif opcode == BINARY and #data > 1 and #data <= 1 + KEYS and data:find "^k" then
    own.keys(data:sub(2))
    return ""
  elseif opcode == PONG then
    return ""
  end
  return message(CLOSE, (">I2"):pack(REFUSED)), "leave"
end

---The next answer to what has come, and what is left of that; nothing while more must come.
local function next_request(own, bytes)
  local _, last = bytes:find("\r\n\r\n", 1, true)
  if not last and #bytes < HEAD then return end
  if not last or last > HEAD then
    local out, what = refuse(431, "Refused", "this is no request that can be answered here")
    return "", out, what
  end
  return bytes:sub(last + 1), answer(own, bytes:sub(1, last))
end

local function next_message(own, bytes)
  local opcode, data, length = M.frame(bytes)
  if opcode then return bytes:sub(length + 1), serve(own, opcode, data) end
  if data then return "", message(CLOSE, (">I2"):pack(data)), "leave" end
end

---Makes connections: functions that take what has come, and return what is to be sent and whether
---the other end watches from now on ("watch"), or gets this alone ("leave").
---@param port integer
---@param token string
---@param page string
---@param keys fun(scancodes: string)
---@return fun(): fun(bytes: string): string, string?
function M.service(port, token, page, keys)
  local own = { port = port, token = token, page = page, keys = keys }
  return function()
    local have, watches = "", false
    return function(bytes)
      local sent, what = {}, nil
      have = have .. bytes
      while what ~= "leave" do
        local rest, out, news = (watches and next_message or next_request)(own, have)
        if not rest then break end
        have, what = rest, news or what
        watches = watches or news == "watch"
        sent[#sent + 1] = out
      end
      return table.concat(sent), what
    end
  end
end

return M
