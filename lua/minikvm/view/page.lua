-- view/page.lua - the page that shows a guest's screen in a browser (view/server.lua serves it).
--
-- Pictures come by WebSocket (view/picture.lua); keys go back as scancodes of set 1 (IBM PS/2
-- Hardware Interface Technical Reference) by KeyboardEvent.code (W3C UI Events), so that a key is
-- where it is on a US keyboard, whatever the user's layout.

local M = {}

local STYLE <const> = [[
body { background: #222; color: #ccc; font: 14px system-ui, sans-serif; margin: 0;
  display: flex; flex-direction: column; align-items: center; min-height: 100vh; }
canvas { background: #000; margin: auto; max-width: 100%; max-height: calc(100vh - 2.5rem);
  image-rendering: pixelated; outline: none; }
p { margin: .6rem; }
#text { position: absolute; left: -9999px; }
]]

local SCRIPT <const> = [==[
'use strict';
const canvas = document.getElementById('screen'), context = canvas.getContext('2d');
const say = (text) => { document.getElementById('state').textContent = text; };
const CELL = [16, 32];
const LOW = '\u0000☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼';
const HIGH = '⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐' +
  '└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0';
const letter = (code) => code < 32 ? (code ? LOW[code] : ' ')
  : code < 127 ? String.fromCharCode(code) : HIGH[code - 127];

// ---- pictures ----

let shown = null; // the cells that the canvas has

function size(width, height) {
  if (canvas.width === width && canvas.height === height) return;
  canvas.width = width;
  canvas.height = height;
  shown = null;
}

function drawCell(i, columns, code, attribute, colours, blinks) {
  const [w, h] = CELL, x = i % columns * w, y = Math.floor(i / columns) * h;
  context.fillStyle = colours[attribute >> 4 & (blinks ? 7 : 15)];
  context.fillRect(x, y, w, h);
  if (code === 0 || code === 32) return;
  context.fillStyle = colours[attribute & 15];
  if (code === 0xdb) context.fillRect(x, y, w, h);
  else context.fillText(letter(code), x, y + 25, w);
}

function drawText(bytes) {
  const [, , blinks, columns, rows, x, y, first, last] = bytes;
  const colours = [];
  for (let i = 0; i < 16; i++) colours.push(`rgb(${bytes.slice(9 + 3 * i, 12 + 3 * i).join()})`);
  size(columns * CELL[0], rows * CELL[1]);
  context.font = `26px ui-monospace, "DejaVu Sans Mono", monospace`;
  const look = colours.join() + blinks, cells = bytes.subarray(57);
  const old = shown && shown.look === look ? shown : null;
  const at = x === 255 ? -1 : y * columns + x;
  for (let i = 0; i < columns * rows; i++) {
    const same = old && old.cells[2 * i] === cells[2 * i] &&
      old.cells[2 * i + 1] === cells[2 * i + 1] && i !== at && i !== old.at;
    if (!same) drawCell(i, columns, cells[2 * i], cells[2 * i + 1], colours, blinks);
  }
  if (at >= 0) {
    context.fillStyle = colours[cells[2 * at + 1] & 15];
    context.fillRect(x * CELL[0], y * CELL[1] + 2 * first, CELL[0], 2 * (last - first + 1));
  }
  shown = { look, cells: cells.slice(), at };
  const lines = [];
  for (let row = 0; row < rows; row++) {
    let line = '';
    for (let i = row * columns; i < (row + 1) * columns; i++) line += letter(cells[2 * i]);
    lines.push(line.trimEnd());
  }
  document.getElementById('text').textContent = lines.join('\n');
}

function drawPixels(bytes) {
  const view = new DataView(bytes.buffer), width = view.getUint16(2, true);
  const height = view.getUint16(4, true), image = context.createImageData(width, height);
  size(width, height);
  const to = new Uint32Array(image.data.buffer);
  for (let i = 0, at = 6; i < to.length; i++, at += 4)
    to[i] = 0xff000000 | bytes[at] << 16 | bytes[at + 1] << 8 | bytes[at + 2];
  context.putImageData(image, 0, 0);
}

let pictures = 0;
function draw(bytes) {
  if (bytes[0] === 84) drawText(bytes);
  else if (bytes[0] === 70) drawPixels(bytes);
  say(bytes[1] ? 'The guest runs.' : 'The guest does not run.');
  document.body.dataset.pictures = ++pictures;
}

// ---- keys ----

const CODES = {};
const ROWS = { 0x01: 'Escape', 0x02: 'Digit1 Digit2 Digit3 Digit4 Digit5 Digit6 Digit7 Digit8 ' +
  'Digit9 Digit0 Minus Equal Backspace Tab KeyQ KeyW KeyE KeyR KeyT KeyY KeyU KeyI KeyO KeyP ' +
  'BracketLeft BracketRight Enter ControlLeft KeyA KeyS KeyD KeyF KeyG KeyH KeyJ KeyK KeyL ' +
  'Semicolon Quote Backquote ShiftLeft Backslash KeyZ KeyX KeyC KeyV KeyB KeyN KeyM Comma Period ' +
  'Slash ShiftRight NumpadMultiply AltLeft Space CapsLock F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 NumLock ' +
  'ScrollLock Numpad7 Numpad8 Numpad9 NumpadSubtract Numpad4 Numpad5 Numpad6 NumpadAdd Numpad1 ' +
  'Numpad2 Numpad3 Numpad0 NumpadDecimal', 0x56: 'IntlBackslash F11 F12',
  0x11c: 'NumpadEnter ControlRight', 0x135: 'NumpadDivide', 0x138: 'AltRight',
  0x147: 'Home ArrowUp PageUp', 0x14b: 'ArrowLeft', 0x14d: 'ArrowRight',
  0x14f: 'End ArrowDown PageDown Insert Delete', 0x15b: 'MetaLeft MetaRight ContextMenu' };
for (const [first, names] of Object.entries(ROWS))
  names.split(' ').forEach((name, i) => { CODES[name] = Number(first) + i; });
const down = new Set();

function send(name, up) {
  const code = CODES[name];
  if (code === undefined || !socket || socket.readyState !== 1) return false;
  const byte = code & 0xff | (up ? 0x80 : 0);
  socket.send(new Uint8Array(code > 0xff ? [107, 0xe0, byte] : [107, byte]));
  if (up) down.delete(name); else down.add(name);
  return true;
}

addEventListener('keydown', (event) => { if (send(event.code, false)) event.preventDefault(); });
addEventListener('keyup', (event) => { if (send(event.code, true)) event.preventDefault(); });
addEventListener('blur', () => { for (const name of [...down]) send(name, true); });

// ---- the connection ----

let socket = null, wait = 250;
function connect() {
  socket = new WebSocket(`ws://${location.host}${location.pathname}ws`);
  socket.binaryType = 'arraybuffer';
  socket.addEventListener('open', () => { wait = 250; say('Connected.'); });
  socket.addEventListener('message', (event) => draw(new Uint8Array(event.data)));
  socket.addEventListener('close', (event) => {
    say(event.code === 1001 ? 'The VM is closed.' : 'The connection is lost; trying again.');
    down.clear();
    if (event.code !== 1001) setTimeout(connect, wait = Math.min(2 * wait, 5000));
  });
}
connect();
]==]

local PAGE <const> = [[
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>%s</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<style>
%s</style></head><body>
<canvas id="screen" width="1280" height="800" tabindex="0" autofocus
 aria-label="the guest's screen"></canvas>
<p id="state">Connecting.</p><pre id="text"></pre>
<script>
%s</script>
</body></html>
]]

---@param title string
---@return string
function M.of(title)
  local escaped = title:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" })
  return PAGE:format(escaped, STYLE, SCRIPT)
end

return M
