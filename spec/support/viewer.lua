-- viewer.lua - a viewer of vm:view() that is no browser: perl, which Debian always has, as a client
-- of the WebSocket protocol.

local beside = require "support.beside"
local program = require "support.program"

local M = {}

M.present = os.execute "perl -MIO::Socket::INET -e 1 2>/dev/null" == true

-- show(TEXT): waits until a picture has it, among its characters. keys(BYTES). now(): seconds.
local HEAD <const> = [[
use strict; use IO::Socket::INET; use Time::HiRes;
$| = 1;
my ($port, $token) = $ARGV[0] =~ m{:(\d+)/(\w+)/} or die "no address";
my ($line, $cells, $state) = (undef, "", 0);
sub now { return Time::HiRes::time() }
sub take { my $n = shift; my $s = ""; while (length $s < $n) {
  sysread($line, $s, $n - length $s, length $s) or exit 3; } return $s }
sub picture {
  my ($op, $n) = unpack "CC", take(2);
  $n = unpack "n", take(2) if $n == 126;
  $n = unpack "Q>", take(8) if $n == 127;
  my $data = take($n);
  if ($op == 0x88) { print "closed ", unpack("n", $data), "\n"; exit 0 }
  $state = ord substr $data, 1, 1;
  $cells = join "", map { substr $_, 0, 1 } unpack "(a2)*", substr $data, 57
    if substr($data, 0, 1) eq "T";
  return $data;
}
sub show { my $text = shift; picture() until index($cells, $text) >= 0; }
sub keys_ { my $k = "k" . shift; syswrite $line, pack("CCN", 0x82, 0x80 | length $k, 0) . $k }
$line = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $port) or die "connect: $!";
syswrite $line, "GET /$token/ws HTTP/1.1\r\nHost: 127.0.0.1:$port\r\nUpgrade: websocket\r\n"
  . "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
  . "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
my $head = ""; $head .= take(1) until $head =~ /\r\n\r\n$/;
die $head unless $head =~ /^HTTP.1.1 101/;
]]

---Starts one beside the spec.
---@param url string
---@param code string  perl, behind HEAD
---@return beside
function M.start(url, code)
  local path = program.file(HEAD .. code)
  return beside.start(("timeout -s KILL 50 perl %s '%s'"):format(path, url), path)
end

return M
