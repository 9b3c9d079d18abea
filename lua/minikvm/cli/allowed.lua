-- cli/allowed.lua - what a script can reach under --safe: all of it. What is in no list here is not
-- there. spec/cli/safe_spec.lua compares the lists with what exists.

local M = {}

local function words(text)
  local set = {}
  for word in text:gmatch "%S+" do set[word] = true end
  return set
end

---Lua's functions and values, as they are; safe_script.lua makes load and require.
M.GLOBALS = words [[
  _G _VERSION arg assert collectgarbage error getmetatable ipairs load next pairs pcall print
  rawequal rawget rawlen rawset require select setmetatable tonumber tostring type warn xpcall
]]

M.LIBRARIES = {
  coroutine = words "close create isyieldable resume running status wrap yield",
  math = words [[abs acos asin atan atan2 ceil cos cosh deg exp floor fmod frexp huge ldexp log
    log10 max maxinteger min mininteger modf pi pow rad random randomseed sin sinh sqrt tan tanh
    tointeger type ult]],
  os = words "clock date difftime exit time",
  string = words [[byte char find format gmatch gsub len lower match pack packsize rep reverse sub
    unpack upper]],
  table = words "concat insert move pack remove sort unpack",
  utf8 = words "char charpattern codepoint codes len offset",
}

---Lua may be built without those of older versions (LUA_COMPAT_MATHLIB).
M.OPTIONAL = words [[math.atan2 math.cosh math.frexp math.ldexp math.log10 math.pow math.sinh
  math.tanh]]

---require "minikvm"
M.MODULE = words "_VERSION device disassemble files pci probe sleep virtio vm wait"

---require "minikvm.devices.NAME"; minikvm.abi is numbers alone.
M.DEVICES = {
  ata = words "new", bios = words "new", blk = words "new", console = words "expect new send",
  edu = words "ID IRQ_DMA IRQ_FACTORIAL new pci", fw_cfg = words "new", i6300esb = words "new",
  net = words "capture hub new send", pvpanic = words "CRASH_LOADED PANICKED SHUTDOWN new",
  rng = words "new", rtc = words "new", serial = words "new send",
  vga = words "BASE SIZE blinks cursor new of palette start video",
}

local HOOKS <const> = "const fifo latch match on override sink source tap"

---Methods of objects, by kind, without "minikvm.".
M.METHODS = {
  clock = words "after every",
  console = words [[attach detach echo eof expect forbid on_line read send sendline text try_expect
    type write]],
  cpu = words [[backtrace disassemble interrupt locals nmi registers regs set_sregs sregs translate
    walk]],
  cpuid = words "get has hide set vendor",
  disk = words "close flush read size write written",
  files = words "close",
  handle = words "get put remove set take",
  hypercalls = words "define override tap",
  keyboard = words "press type",
  memory = words "cstring fill find hexdump read regions size u16 u32 u64 u8 write",
  mmio = words(HOOKS .. " doorbell"), ports = words(HOOKS .. " doorbell"), msrs = words(HOOKS),
  window = words(HOOKS .. " doorbell"),
  pci = words "attach devices enable enabled lost routing_table",
  snapshot = words "close vm",
  timer = words "remove",
  vm = words [[add_cpu address_of attach close coverage crash exit expect_exits fork irq linux load
    on_unhandled pause place_of profile reset restore resume run screen snapshot start stats stop
    symbol_at trace wait]],
  vmfiles = words "audit close directory open read seek size usage write",
  symbols = words "", cpus = words "", pcifunction = words "",
  watch = words "", layer = words "",
  -- made in Lua
  definition = words "",
  device = words [[after bar cancel detach dma_read dma_write every hits is_ram keep line lower
    raise ram_read ram_write replace use_disk]],
  profile = words "folded stop", set = words "list",
  coverage = words "attach blocks count pages reached reset stop take text",
  places = words "remove", locals = words "",
  backtrace = words "", listing = words "", stats = words "json", trace = words "remove",
  buffer = words "done is_stale put read reject write",
  linux = words "dmesg fork read renew sh wait write",
  hub = words "cards send", capture = words "add bytes count",
  screen = words "cell cursor expect pixel row size text",
}

---Kinds that minikvm's own parts use, and no script is given.
M.INTERNAL = words [[core.blocks core.coverage core.record dwarf spool stream virtio wire socket
  worker channel font gdb viewsocket view]]

---Options of kvm.vm and kvm.files.
M.VM_OPTIONS = words [[
  name memory cpus mode limits unhandled coalesce echo trace page_size map_size map_base irqchip
  console files assist cmdline cpuid stats map_io pci
]]
M.FILES_OPTIONS = words "root rules max_open max_bytes max_file max_files audit decide"

---What --files grants, and the verdicts that a policy of the script may have with it.
M.GRANTS = {
  ro = words "deny ro", cow = words "deny ro cow", rw = words "deny ro cow rw",
  ["shared-rw"] = words "deny ro cow rw shared-rw",
}

return M
