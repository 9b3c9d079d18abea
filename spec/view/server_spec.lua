-- What strangers send to the port of a view: HTTP and WebSocket (lua/minikvm/view/server.lua), and
-- who connects to it (src/lua/view.c).
--
-- The right bytes are those of RFC 6455 (1.3, 5.7, 7.4.1) and RFC 9112.

local process = require "support.process"
local support = require "support.guest"
local viewer = require "support.viewer"

require "minikvm"
local server = require "minikvm.view.server"

local WRONG <const>, REFUSED <const>, TOO_BIG <const> = 1002, 1003, 1009
local KEY <const> = "dGhlIHNhbXBsZSBub25jZQ=="
local TOKEN <const> = ("0123456789abcdef"):rep(2)

describe("the WebSocket protocol", function()
  it("has the RFC's answer to a handshake", function()
    assert.equal("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", server.accept(KEY))
  end)

  it("has the RFC's frames", function()
    local hello <const> = "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
    assert.same({ 1, "Hello", 11 }, { server.frame(hello .. "x") })
    for i = 0, 10 do assert.same({}, { server.frame(hello:sub(1, i)) }, i) end
    assert.equal("\x82\x05", server.header(2, 5))
    assert.equal("\x82\x7e\x01\x00", server.header(2, 256))
    assert.equal("\x82\x7f\0\0\0\0\0\x01\0\0", server.header(2, 65536))
  end)

  for what, c in pairs{
    ["a client that does not mask"] = { "\x81\x05Hello", WRONG },
    ["reserved bits"] = { "\xc1\x85", WRONG },
    ["an opcode that is none"] = { "\x83\x80", WRONG },
    ["a message in several frames"] = { "\x01\x83", REFUSED },
    ["a piece of one"] = { "\x80\x80", REFUSED },
    ["a ping in pieces"] = { "\x09\x80", WRONG },
    ["a ping of 126 bytes"] = { "\x89\xfe\x00\x7e", WRONG },
    ["more than 1024 bytes"] = { "\x82\xfe\x04\x01", TOO_BIG },
    ["64 bits of length"] = { "\x82\xff", TOO_BIG },
    ["a length in too many bytes"] = { "\x82\xfe\x00\x05", WRONG },
  } do
    it("refuses " .. what, function() assert.same({ nil, c[2] }, { server.frame(c[1]) }) end)
  end
end)

describe("the head of a request", function()
  it("has a path and fields", function()
    local r = server.parse("GET /x HTTP/1.1\r\nHOST: \t a:1 \r\nPath: y\r\n"
      .. "Connection: a, UPGRADE\r\n\r\n")
    assert.same({ [":path"] = "/x", host = "a:1", connection = "a, UPGRADE" }, r)
    assert.is_true(server.lists(r.connection, "upgrade"))
    assert.is_false(server.lists(r.connection, "up"))
    assert.is_false(server.lists(nil, "up"))
  end)

  for what, c in pairs{
    ["another method"] = { "POST / HTTP/1.1\r\n\r\n", 405 },
    ["another version"] = { "GET / HTTP/1.0\r\n\r\n", 505 },
    ["a path that is none"] = { "GET x HTTP/1.1\r\n\r\n", 400 },
    ["two paths"] = { "GET / / HTTP/1.1\r\n\r\n", 400 },
    ["nothing"] = { "\r\n\r\n", 400 },
    ["two hosts"] = { "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400 },
    ["a blank before the colon"] = { "GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400 },
    ["a folded line"] = { "GET / HTTP/1.1\r\n folded\r\n\r\n", 400 },
    ["a bare newline"] = { "GET / HTTP/1.1\r\nX: a\nHost: b\r\n\r\n", 400 },
    ["a body"] = { "GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", 400 },
  } do
    it("refuses " .. what, function() assert.same({ nil, c[2] }, { server.parse(c[1]) }) end)
  end
end)

describe("a connection", function()
  local UPGRADE <const> = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    .. "Sec-WebSocket-Key: " .. KEY .. "\r\nSec-WebSocket-Version: "
  local ASK <const> = ("GET /%s/ws HTTP/1.1\r\nHost: localhost:80\r\n%s13\r\n\r\n")
    :format(TOKEN, UPGRADE)

  local function connect(typed)
    return server.service(80, TOKEN, "<p>page", function(codes) table.insert(typed, codes) end)()
  end

  local function ask(host, more, path)
    return connect{}(("GET /%s HTTP/1.1\r\nHost: %s:80\r\n%s\r\n"):format(path, host, more))
  end

  for what, c in pairs{
    ["gets the page"] = { 200, "127.0.0.1", "", TOKEN .. "/" },
    ["gets it by the host's other name"] = { 200, "localhost", "", TOKEN .. "/" },
    ["gets nothing by another"] = { 403, "evil.example", "", TOKEN .. "/" },
    ["gets nothing for another page"] = { 403, "127.0.0.1", "Origin: http://evil.example\r\n"
      .. UPGRADE .. "13\r\n", TOKEN .. "/ws" },
    ["gets nothing for one without a name"] = { 403, "127.0.0.1", "Origin: null\r\n"
      .. UPGRADE .. "13\r\n", TOKEN .. "/ws" },
    ["gets nothing else"] = { 404, "127.0.0.1", "", TOKEN .. "/x" },
    ["gets nothing without the token"] = { 404, "127.0.0.1", "", ("0"):rep(32) .. "/" },
    ["gets nothing for a piece of it"] = { 404, "127.0.0.1", "", TOKEN:sub(2) .. "/" },
    ["has to ask for a WebSocket"] = { 400, "127.0.0.1", "", TOKEN .. "/ws" },
    ["has to ask for this version of it"] =
      { 426, "127.0.0.1", UPGRADE .. "8\r\n", TOKEN .. "/ws" },
  } do
    it(what, function()
      local answer, verdict = ask(c[2], c[3], c[4])
      assert.matches(("^HTTP/1%%.1 %d "):format(c[1]), answer)
      assert.equal("leave", verdict)
      local head, body = answer:match "^(.-\r\n)\r\n(.*)$"
      assert.equal(#body, tonumber(head:match "Content%-Length: (%d+)\r\n"))
    end)
  end

  it("is refused a head that does not end", function()
    for size in pairs{ [4096] = true, [4095] = true } do
      local feed = connect{}
      assert.equal("", feed(("x"):rep(size - 1)))
      assert.matches("^HTTP/1%.1 431 ", (feed "xxx\r\n\r\n"))
    end
  end)

  it("watches, byte by byte, and is answered", function()
    local typed = {}
    local feed = connect(typed)
    for byte in ASK:sub(1, -2):gmatch "." do assert.same({ "" }, { feed(byte) }) end
    local answer, verdict = feed "\n"
    assert.matches("^HTTP/1%.1 101 .*Sec%-WebSocket%-Accept: s3pPLMBiTxaQ9kYGzzhZRbK%+xOo=\r\n\r\n$",
                   answer)
    assert.equal("watch", verdict)
    -- Two messages and half a ping; its other half, and a pong.
    assert.same({ "" }, { feed("\x82\x83\0\0\0\0k\x1e\x9e\x82\x84\1\1\1\1j\xe1\x49\xc9"
      .. "\x89\x82\0") })
    assert.same({ "\x1e\x9e", "\xe0\x48\xc8" }, typed)
    assert.same({ "\x8a\x02hi" }, { feed "\0\0\0hi\x8a\x80\0\0\0\0" })
    assert.same({ "\x88\x02\3\xe8", "leave" }, { feed "\x88\x82\0\0\0\0\3\xe8\x82\x03k" })
  end)

  for what, c in pairs{
    ["a frame without a mask"] = { "\x82\x03k\x1e\x9e", WRONG },
    ["one of 4 GiB"] = { "\x82\xff\0\0\0\1\0\0\0\0", TOO_BIG },
    ["text"] = { "\x81\x81\0\0\0\0x", REFUSED },
    ["a message of nothing"] = { "\x82\x80\0\0\0\0", REFUSED },
    ["too many keys"] = { "\x82\xa2\0\0\0\0k" .. ("\x1e"):rep(33), REFUSED },
    ["what is no key"] = { "\x82\x82\0\0\0\0x\x1e", REFUSED },
  } do
    it("is closed for " .. what, function()
      local typed = {}
      local feed = connect(typed)
      feed(ASK)
      assert.same({ (">BBI2"):pack(0x88, 2, c[2]), "leave" }, { feed(c[1]) })
      assert.same({}, typed)
    end)
  end
end)

describe("the port of a view", function()
  if support.without_kvm(pending) then return end
  if not viewer.present then return pending "needs perl" end

  ---A VM of text mode that nobody runs, and its view.
  local function show(text)
    local vm = support.vm{ irqchip = "pic" }
    vm.memory:write(0xb8000, (text:gsub(".", "%0\7")))
    return vm, assert(vm:view())
  end

  -- raw(): another connection; all(): what comes until its end.
  local MORE <const> = [[
    sub raw { my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $port) or die $!;
      syswrite $s, shift; return $s }
    sub all { my ($s, $t) = (shift, ""); 1 while sysread $s, $t, 4096, length $t; return $t }
  ]]

  it("closes connections that are not as the protocols have it, after it has said why", function()
    local _ <close>, view = show "R"
    local client = viewer.start(view.url, MORE .. [[
      print substr(all(raw("x" x 4096)), 0, 12), "\n";
      print substr(all(raw("GET /" . "0" x 32 . "/ HTTP/1.1\r\nHost: x\r\n\r\n")), 0, 12), "\n";
      show("R"); syswrite $line, pack "C*", map { ($_ * 7 + 13) % 256 } 0 .. 599; picture()]])
    assert.equal("HTTP/1.1 431\nHTTP/1.1 403\nclosed 1002\n", client:finish())
  end)

  it("has room for eight, and for others when those have gone", function()
    local _ <close>, view = show "R"
    local client = viewer.start(view.url, MORE .. [[
      close raw("") for 1 .. 50;
      my @held;
      while (@held < 7) { # those that came and went leave their places a moment later
        my $s = raw("GET / HTTP/1.1\r\n"); my $r = ""; vec($r, fileno $s, 1) = 1;
        next if select($r, undef, undef, 0.02) > 0;
        push @held, $s;
      }
      print all(raw("")) eq "" ? "full\n" : "room\n";
      close shift @held; my $answer;
      do { $answer = all(raw("GET / HTTP/1.0\r\n\r\n")) } while $answer eq "";
      print substr($answer, 0, 12), "\n"; show("R")]])
    assert.equal("full\nHTTP/1.1 505\n", client:finish())
  end)

  it("gives one that sleeps the newest picture, and not all before it", function()
    local vm <close> = support.vm{ memory = "1M" }
    vm.memory:map{ at = 0xe0000000, size = 1 << 20, name = "framebuffer 512x512" }
    local view = assert(vm:view())
    local go = os.tmpname()
    os.remove(go)
    local client = viewer.start(view.url, ([[
      picture(); print "there\n"; select(undef, undef, undef, 0.01) until -e "%s";
      my ($n, $p) = 0; do { $p = picture(); $n++ } until substr($p, 6, 1) eq chr 100;
      print $n < 50 ? "few" : "all $n"]]):format(go))
    client:wait "there\n"
    assert(vm:load{ bytes = "\xf4" }) -- hlt: each run ends with a look
    for i = 1, 100 do
      vm.memory:write(0xe0000000, (string.char(i)):rep(1 << 20))
      vm:run()
      vm:reset()
    end
    io.open(go, "w"):close()
    assert.equal("there\nfew", client:finish())
    os.remove(go)
  end)

  it("is closed while clients come, send and go, and others' descriptors stay open", function()
    for _ = 1, 5 do
      local vm, view = show "R"
      local client = viewer.start(view.url, MORE .. [[
        print "go\n"; $SIG{PIPE} = "IGNORE";
        for (1 .. 2000) { my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $port)
          or last; syswrite $s, "GET / HTTP/1.0\r\n\r\n"; close $s }]])
      client:wait "go\n"
      view:remove()
      local files = {}
      for i = 1, 8 do files[i] = io.tmpfile() end
      for i = 1, 8 do assert(files[i]:write "x") assert(files[i]:close()) end
      client:finish()
      vm:close()
    end
  end)
end)
