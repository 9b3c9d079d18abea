-- video.lua - INT 10h: the text screen of 80 x 25 characters at b8000, and what of it goes to the
-- console.
--
-- IBM VGA/XGA Technical Reference and PC/AT Technical Reference, "BIOS": text modes 0 to 3 and 7;
-- other modes are set, cleared and reported, but nothing is drawn in them. Eight pages. What is
-- written is in video memory, where vm:screen() finds it, and is printed at the console as text: a
-- cursor that is set to another row begins a new line there.

local calls = require "minikvm.bios.frame"

local M = {}

local MODE <const>, COLUMNS <const>, PAGE_SIZE <const>, START <const> = 0x449, 0x44a, 0x44c, 0x44e
local CURSORS <const>, SHAPE <const>, PAGE <const>, CRTC <const> = 0x450, 0x460, 0x462, 0x463
local ROWS <const>, POINTS <const> = 0x484, 0x485
local VIDEO <const>, BYTES <const> = 0xb8000, 0x1000
local WIDTH <const>, HEIGHT <const> = 80, 25
local BELL <const>, BACK <const>, LINE <const>, RETURN <const> = 7, 8, 10, 13
local BLANK <const> = 0x07
local STRING_MAX <const> = WIDTH * HEIGHT

-- ---- the cursor ----

local function cursor(d, page)
  local at = d.vm.memory:u16(CURSORS + 2 * (page & 7)) -- whatever the guest has made of it
  return math.min(at & 0xff, WIDTH - 1), math.min(at >> 8, HEIGHT - 1)
end

---Tells the VGA, if there is one.
local function show_cursor(d)
  local card = d.own.card
  if not card then return end
  local memory, crtc = d.vm.memory, card.state.crtc
  local page = memory:u8(PAGE) & 7
  local x, y = cursor(d, page)
  local at = page * BYTES // 2 + y * WIDTH + x
  crtc[0x0e], crtc[0x0f] = at >> 8, at & 0xff
end

---The same of its shape and the page that is shown.
local function show_page(d)
  local card = d.own.card
  if not card then return end
  local shape, crtc = d.vm.memory:u16(SHAPE), card.state.crtc
  crtc[0x0a], crtc[0x0b] = shape >> 8, shape & 0xff
  crtc[0x0c], crtc[0x0d] = (d.vm.memory:u8(PAGE) & 7) * (BYTES // 512), 0
  show_cursor(d)
end

local function set_cursor(d, page, x, y)
  d.vm.memory:u16(CURSORS + 2 * (page & 7), x | y << 8)
  if page & 7 == d.vm.memory:u8(PAGE) then show_cursor(d) end
end

-- ---- the console ----

---Prints a character, on a line of its own when the cursor was set to another row before.
local function print(d, byte, y)
  local s = d.state
  if d.own.quiet then return end
  if byte >= 0x20 and s.print_row == y then return d.own.print(d, d.own.characters[byte]) end
  if byte == LINE or byte == RETURN or byte == BACK or byte == BELL then
    d.own.print(d, string.char(byte))
    s.print_row = byte == LINE and y + 1 or y
    return
  end
  if s.print_row and s.print_row ~= y then d.own.print(d, "\r\n") end
  s.print_row = y
  d.own.print(d, d.own.characters[byte] or " ")
end

-- ---- cells ----

local function place(page, x, y) return VIDEO + (page & 7) * BYTES + (y * WIDTH + x) * 2 end

---Moves the rows of a window up by `count`, or down when it is negative; 0: all of it is blank.
local function scroll(d, page, count, attribute, left, top, right, bottom)
  local memory = d.vm.memory
  right, bottom = math.min(right, WIDTH - 1), math.min(bottom, HEIGHT - 1)
  local width, height = right - left + 1, bottom - top + 1
  if width <= 0 or height <= 0 then return end
  if math.abs(count) >= height then count = 0 end
  local blank, rows = (" " .. string.char(attribute)):rep(width), {}
  for y = top, bottom do
    local from = count ~= 0 and y + count or -1
    rows[y] = from >= top and from <= bottom and memory:read(place(page, left, from), 2 * width)
      or blank
  end
  for y = top, bottom do memory:write(place(page, left, y), rows[y]) end
end

---One character at the cursor, which goes on; `attribute` nil: that of the cell.
local function teletype(d, page, byte, attribute)
  local x, y = cursor(d, page)
  print(d, byte, y)
  if byte == BELL then return end
  if byte == BACK then x = math.max(x - 1, 0)
  elseif byte == RETURN then x = 0
  elseif byte == LINE then y = y + 1
  else
    local at = place(page, x, y)
    d.vm.memory:u8(at, byte)
    if attribute then d.vm.memory:u8(at + 1, attribute) end
    x = x + 1
    if x == WIDTH then x, y = 0, y + 1 end
    d.state.print_row = y -- a terminal goes on there, too
  end
  if y == HEIGHT then
    y = HEIGHT - 1
    scroll(d, page, 1, d.vm.memory:u8(place(page, 0, y) + 1), 0, 0, WIDTH - 1, y)
    if d.state.print_row then d.state.print_row = y end
  end
  set_cursor(d, page, x, y)
end

---The same character several times from the cursor on, which stays.
local function put_characters(d, with_attribute)
  local cpu, memory = d.vm.cpu[0], d.vm.memory
  local x, y = cursor(d, cpu.bh)
  local at = place(cpu.bh, x, y)
  local count = math.min(cpu.cx, WIDTH * HEIGHT - (y * WIDTH + x))
  if with_attribute then
    memory:write(at, string.char(cpu.al, cpu.bl):rep(count))
  else
    for i = 0, count - 1 do memory:u8(at + 2 * i, cpu.al) end
  end
  if count == 1 then print(d, cpu.al, y) end -- more are a bar, or a cleared line
end

local function write_string(d)
  local cpu, memory = d.vm.cpu[0], d.vm.memory
  local how, page, attribute = cpu.al, cpu.bh, cpu.bl
  local x, y = cursor(d, page)
  set_cursor(d, page, math.min(cpu.dl, WIDTH - 1), math.min(cpu.dh, HEIGHT - 1))
  local from, step = calls.linear(cpu.es, cpu.bp), how & 2 ~= 0 and 2 or 1
  local length = math.min(cpu.cx, STRING_MAX)
  if not memory:has(from, length * step) then return end
  local text = memory:read(from, length * step)
  for i = 1, #text, step do
    teletype(d, page, text:byte(i), step == 2 and text:byte(i + 1) or attribute)
  end
  if how & 1 == 0 then set_cursor(d, page, x, y) end
end

-- ---- modes ----

---@param d minikvm.device
---@param mode integer  bit 7: memory stays as it is
function M.set_mode(d, mode)
  local memory = d.vm.memory
  memory:u8(MODE, mode & 0x7f)
  memory:u16(COLUMNS, WIDTH)
  memory:u16(PAGE_SIZE, BYTES)
  memory:u16(START, 0)
  memory:fill(CURSORS, 16)
  memory:u16(SHAPE, 0x0d0e)
  memory:u8(PAGE, 0)
  memory:u16(CRTC, 0x3d4)
  memory:u8(ROWS, HEIGHT - 1)
  memory:u16(POINTS, 16)
  if mode & 0x80 == 0 then
    memory:write(VIDEO, (" " .. string.char(BLANK)):rep(8 * BYTES // 2))
  end
  local vga = package.loaded["minikvm.devices.vga"]
  d.own.card = vga and vga.of(d.vm)
  show_page(d)
end

local function text_mode(mode) return mode <= 3 or mode == 7 end

local function set_mode(d)
  local mode = d.vm.cpu[0].al
  M.set_mode(d, mode)
  d.vm.cpu[0].al = text_mode(mode & 0x7f) and 0x30 or 0x20
end

local function set_shape(d)
  d.vm.memory:u16(SHAPE, d.vm.cpu[0].cx)
  show_page(d)
end

local function get_cursor(d)
  local cpu = d.vm.cpu[0]
  cpu.dx, cpu.cx = d.vm.memory:u16(CURSORS + 2 * (cpu.bh & 7)), d.vm.memory:u16(SHAPE)
end

local function set_page(d)
  local page = d.vm.cpu[0].al & 7
  d.vm.memory:u8(PAGE, page)
  d.vm.memory:u16(START, page * BYTES)
  show_page(d)
end

local function scrolls(direction)
  return function(d)
    local cpu = d.vm.cpu[0]
    scroll(d, d.vm.memory:u8(PAGE), direction * cpu.al, cpu.bh, cpu.cl, cpu.ch, cpu.dl, cpu.dh)
  end
end

local function read_cell(d)
  local cpu = d.vm.cpu[0]
  local x, y = cursor(d, cpu.bh)
  cpu.ax = d.vm.memory:u16(place(cpu.bh, x, y))
end

local function get_mode(d)
  local cpu, memory = d.vm.cpu[0], d.vm.memory
  cpu.al, cpu.ah, cpu.bh = memory:u8(MODE), WIDTH, memory:u8(PAGE)
end

---AX=1003h: whether bit 7 of an attribute blinks, or makes the background bright.
local function set_blinking(d)
  local cpu, card = d.vm.cpu[0], d.own.card
  if cpu.al ~= 0x03 or not card then return end
  local mode = card.state.attribute[0x10]
  card.state.attribute[0x10] = cpu.bl & 1 ~= 0 and mode | 0x08 or mode & ~0x08
end

---AX=1130h: a font's place, which is nowhere; its height, and the rows.
local function font_information(d)
  local cpu = d.vm.cpu[0]
  if cpu.al ~= 0x30 then return end
  cpu.cx, cpu.dl, cpu.es, cpu.bp = 16, HEIGHT - 1, 0, 0
end

---AH=12h, BL=10h: a colour adapter of 256 KiB.
local function configuration(d)
  local cpu = d.vm.cpu[0]
  if cpu.bl == 0x10 then
    cpu.bh, cpu.bl, cpu.cx = 0, 3, 9
  elseif cpu.bl >= 0x30 and cpu.bl <= 0x36 then
    cpu.al = 0x12
  end
end

---AH=1ah: a VGA with a colour screen.
local function adapter(d)
  local cpu = d.vm.cpu[0]
  if cpu.al == 0 then cpu.bx = 0x0008 end
  cpu.al = 0x1a
end

local SERVICES <const> = {
  [0x00] = set_mode, [0x01] = set_shape,
  [0x02] = function(d)
    local cpu = d.vm.cpu[0]
    set_cursor(d, cpu.bh, cpu.dl, cpu.dh)
  end,
  [0x03] = get_cursor, [0x05] = set_page, [0x06] = scrolls(1), [0x07] = scrolls(-1),
  [0x08] = read_cell, [0x09] = function(d) put_characters(d, true) end,
  [0x0a] = function(d) put_characters(d, false) end,
  [0x0e] = function(d) teletype(d, d.vm.memory:u8(PAGE), d.vm.cpu[0].al) end,
  [0x0f] = get_mode, [0x10] = set_blinking, [0x11] = font_information, [0x12] = configuration,
  [0x13] = write_string,
  [0x1a] = adapter,
}

---@param d minikvm.device
function M.int10(d)
  local serve = SERVICES[d.vm.cpu[0].ah]
  if serve then serve(d) end
end

---Prints a line on the screen, as the BIOS itself does.
function M.say(d, text)
  for i = 1, #text do teletype(d, 0, text:byte(i)) end
end

return M
