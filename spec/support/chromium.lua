-- chromium.lua - pages looked at in a real browser, where Chromium is installed (Debian: chromium).

local beside = require "support.beside"
local process = require "support.process"
local program = require "support.program"

local M = {}

---Its program; nil where it is not installed, and in an emulated machine, where it takes minutes.
M.program = (function()
  if process.emulated then return nil end
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
  local home = program.folder()
  return beside.start(("HOME=%s timeout 60 %s --headless --no-sandbox --disable-gpu --no-first-run "
    .. "--user-data-dir=%s --virtual-time-budget=%d --dump-dom '%s' 2>/dev/null; rm -rf %s"):format(
      home, M.program, home, milliseconds or 1000, url, home)):finish()
end

-- A client of the DevTools protocol. evaluate(JAVASCRIPT): its value, a string. until(JAVASCRIPT):
-- asks again until that is true. key(CODE, KEY, NUMBER): pressed and released.
local DRIVER <const> = [[
use strict; use IO::Socket::INET; use Time::HiRes;
my ($home, $url) = @ARGV;
my ($port, $line, $n) = (0, undef, 0);
sub pause { Time::HiRes::sleep(0.05) }
until ($port) {
  if (open my $f, "<", "$home/DevToolsActivePort") { $port = <$f>; chomp $port if $port }
  pause() unless $port;
}
sub reach { return IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $port) or die $! }
sub page {
  my $s = reach();
  print $s "GET /json/list HTTP/1.1\r\nHost: 127.0.0.1:$port\r\nConnection: close\r\n\r\n";
  my ($head, $all) = ("", "");
  $head .= getc $s until $head =~ /\r\n\r\n$/;
  read $s, $all, $1 if $head =~ /content-length: *(\d+)/i;
  for my $one (split /\}/, $all) {
    return $1 if index($one, "\"url\": \"$url") >= 0
      && $one =~ m{"webSocketDebuggerUrl": "ws://[^/]*(/[^"]*)"};
  }
}
my $path; until ($path = page()) { pause() }
$line = reach();
print $line "GET $path HTTP/1.1\r\nHost: 127.0.0.1:$port\r\nUpgrade: websocket\r\n"
  . "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
  . "Sec-WebSocket-Version: 13\r\n\r\n";
sub take { my $n = shift; my $s = ""; read($line, $s, $n) == $n or exit 3; return $s }
my $head = ""; $head .= take(1) until $head =~ /\r\n\r\n$/;
sub call {
  my ($method, $params) = @_;
  my $text = sprintf '{"id":%d,"method":"%s","params":%s}', ++$n, $method, $params;
  $text .= " " x 126; # so that its length has two bytes
  print $line pack("CCnN", 0x81, 0xfe, length $text, 0) . $text; $line->flush;
  while (1) {
    my ($op, $length) = unpack "CC", take(2);
    $length = unpack "n", take(2) if $length == 126;
    $length = unpack "Q>", take(8) if $length == 127;
    my $answer = take($length);
    return $answer if $answer =~ /^\{"id":$n\b/;
  }
}
sub evaluate {
  my $js = shift; $js =~ s/(["\\])/\\$1/g;
  my $answer = call("Runtime.evaluate", qq({"expression":"String($js)"}));
  return $answer =~ /"value":"((?:[^"\\]|\\.)*)"/ ? $1 : "";
}
sub until_ { my $js = shift; until (evaluate($js) eq "true") { pause() } }
sub key {
  my ($code, $key, $number) = @_;
  for my $type ("rawKeyDown", "keyUp") {
    call("Input.dispatchKeyEvent", sprintf '{"type":"%s","code":"%s","key":"%s",'
      . '"windowsVirtualKeyCode":%d}', $type, $code, $key, $number);
  }
}
]]

---Drives a page in a browser beside the caller, whose VMs go on meanwhile.
---@param url string
---@param code string  perl, behind DRIVER
---@return string output
function M.drive(url, code)
  local home, script = program.folder(), program.file(DRIVER .. code)
  return beside.start(("HOME=%s timeout 60 %s --headless --no-sandbox --disable-gpu "
    .. "--no-first-run --user-data-dir=%s --remote-debugging-port=0 '%s' >/dev/null 2>&1 & "
    .. "browser=$!; timeout 50 perl %s %s '%s'; kill $browser; "
    .. "wait $browser 2>/dev/null; rm -rf %s"):format( -- a shell says how it ended
      home, M.program, home, url, script, home, url, home), script):finish()
end

return M
