-- html_page.lua - the page of html.lua: its style, its script, and a place for the data.
--
-- The script only ever sets text and attributes of its own choosing: nothing of the data becomes
-- markup. The policy in the head forbids every request (W3C Content Security Policy 3).

local M = {}

local STYLE <const> = [[
:root { color-scheme: light dark; --line: #8884; --dim: #888; --good: #2a9d4a; --bad: #d33;
  --skip: #c90; --mark: #ffe08a; --back: #8881; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 75rem; padding: 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; }
h3 { font-size: .95rem; margin: .9rem 0 .2rem; }
pre, .mono { font: 12px/1.4 ui-monospace, monospace; }
pre { background: var(--back); margin: 0; max-height: 24rem; overflow: auto; padding: .5rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
mark { background: var(--mark); color: #000; }
.bar { display: flex; gap: .5rem; flex-wrap: wrap; margin: .8rem 0; position: sticky; top: 0;
  background: Canvas; padding: .4rem 0; }
.bar input { flex: 1; min-width: 10rem; padding: .3rem .5rem; font: inherit; }
.bar button { font: inherit; padding: .2rem .7rem; }
.bar button[aria-pressed=true] { outline: 2px solid currentColor; }
.dim { color: var(--dim); }
.test { border-top: 1px solid var(--line); }
.test > summary { display: flex; gap: .6rem; padding: .25rem 0; cursor: pointer; list-style: none; }
.name { flex: 1; overflow-wrap: anywhere; }
.pass { color: var(--good); } .bad { color: var(--bad); } .skip { color: var(--skip); }
.in { padding: 0 0 1rem 1rem; }
.vm { border-left: 3px solid var(--line); margin: .8rem 0; padding-left: .8rem; }
.two { display: flex; flex-wrap: wrap; gap: 1rem; } .two > * { flex: 1 1 26rem; min-width: 0; }
.two > :has(img) { flex: 0 1 640px; }
img { max-width: 100%; background: #000; }
svg { display: block; width: 100%; background: var(--back); }
.exits { max-height: 18rem; overflow: auto; background: var(--back); padding: .3rem; }
.exits div { white-space: pre-wrap; } .exits div.on { background: var(--mark); color: #000; }
]]

local SCRIPT <const> = [==[
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const WORDS = ['passed', 'failed', 'error', 'skipped'];
const CLASSES = ['pass', 'bad', 'bad', 'skip'];
const NS = 'http://www.w3.org/2000/svg';

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  for (const child of children) if (child != null) node.append(child);
  return node;
}
const el = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  put(document.createElementNS(NS, tag), attributes, children);
const section = (title, ...body) => el('section', {}, el('h3', {}, title), ...body);
const shared = (place) => place == null ? null : data.shared[place];
const lines = (title, place) => shared(place) ? section(title, el('pre', {}, shared(place))) : null;
const day = (time) => new Date(time * 1000).toLocaleString();

// ---- the trend ----

const runs = data.runs, last = runs[runs.length - 1], before = runs[runs.length - 2];
const keyOf = (t) => cut(data.files[t[2]]) + ': ' + t[1];
const cut = (text) => text.slice(0, 240);
const failedBefore = new Set(before ? before.failed : []);

function trend() {
  const most = Math.max(1, ...runs.map((r) => r.pass + r.bad + r.skip));
  const wide = 12 * runs.length, high = 60;
  const chart = svg('svg', { viewBox: `0 0 ${Math.max(wide, 240)} ${high}`, height: high,
    role: 'img', 'aria-label': 'results of earlier runs, the last one at the right',
    preserveAspectRatio: 'xMinYMid meet' });
  runs.forEach((run, i) => {
    let y = high;
    const bar = svg('g', {}, svg('title', {}, `${day(run.time)}: ${run.pass} passed, ${run.bad} ` +
      `failed, ${run.skip} skipped, ${run.seconds.toFixed(1)} s`));
    for (const [count, colour] of [[run.pass, '--good'], [run.skip, '--skip'],
      [run.bad, '--bad']]) {
      const tall = count ? Math.max(2, count / most * (high - 4)) : 0;
      y -= tall;
      bar.append(svg('rect', { x: 12 * i + 1, y, width: 10, height: tall,
        style: `fill: var(${colour})` }));
    }
    chart.append(bar);
  });
  return section(`The last ${runs.length} runs`, chart);
}

function past(key) {
  const times = runs.filter((r) => r.failed.includes(key)).length;
  if (runs.length < 2) return null;
  return el('p', { class: 'dim' }, `Failed in ${times} of the last ${runs.length} runs.`);
}

// ---- a failure ----

function consoleOf(vm) {
  const pre = el('pre', {});
  for (const [text, words] of vm.console)
    pre.append(words ? el('mark', { title: words }, text) : text);
  const total = shared(vm.total) ? el('p', { class: 'dim' }, shared(vm.total)) : null;
  const node = section('Console', total, pre, ...vm.missed.map((text) =>
    el('p', { class: 'bad' }, 'waited for, and did not come: ' + text)));
  const marks = vm.console.some((piece) => piece[1]);
  if (marks) node.append(el('p', { class: 'dim' }, 'What was waited for is marked; point at it.'));
  return vm.console.length || vm.missed.length ? node : null;
}

const KINDS = [['in', '#4a90d9'], ['out', '#e08a1e'], ['mmio', '#9b59b6'], ['hlt', '#7f8c8d'],
  ['msr', '#16a085'], ['interrupt', '#c0392b'], ['', '#555']];
const kindOf = (line) => KINDS.find(([word]) => (line.split(/rip=\S+ /)[1] || '').includes(word)) ||
  KINDS[KINDS.length - 1];

function exitsOf(vm) {
  const all = (shared(vm.exits) || '').split('\n').filter((line) => line);
  if (!all.length) return null;
  const times = all.map((line) => parseFloat(line)), first = times[0];
  const span = Math.max(1e-6, times[times.length - 1] - first);
  const line = svg('svg', { viewBox: '0 0 1000 40', height: 40, preserveAspectRatio: 'none',
    role: 'img', 'aria-label': 'the last exits by time' });
  const list = el('div', { class: 'exits mono', tabindex: 0 });
  all.forEach((text, i) => {
    const row = el('div', {}, text);
    const tick = svg('rect', { x: (times[i] - first) / span * 994, y: 4, width: 3, height: 32,
      style: `fill: ${kindOf(text)[1]}; cursor: pointer` }, svg('title', {}, text.trim()));
    tick.addEventListener('click', () => {
      list.querySelectorAll('.on').forEach((other) => other.classList.remove('on'));
      row.classList.add('on');
      row.scrollIntoView({ block: 'nearest' });
    });
    line.append(tick);
    list.append(row);
  });
  const took = (span * 1000).toFixed(3);
  const legend = el('p', { class: 'dim' }, `${all.length} exits in ${took} ms: `);
  for (const [word, colour] of KINDS.slice(0, 6))
    legend.append(el('span', { style: `color: ${colour}` }, '\u25a0 '), word + '  ');
  requestAnimationFrame(() => { list.scrollTop = list.scrollHeight; });
  return section('The last exits', legend, line, list);
}

function screenOf(vm) {
  const picture = shared(vm.picture);
  if (picture)
    return section('Screen', el('img', { src: 'data:image/png;base64,' + picture,
      alt: shared(vm.screen) || 'the screen' }));
  return lines('Screen', vm.screen);
}

function vmOf(vm) {
  return el('div', { class: 'vm' }, el('h3', {}, 'VM ' + vm.name), lines('Cause', vm.cause),
    el('div', { class: 'two' }, screenOf(vm), consoleOf(vm)), lines('Stack', vm.stack), exitsOf(vm),
    lines('Registers', vm.registers), lines('Files', vm.files));
}

function quoted(word) {
  return /[^\w\-.\/=]/.test(word) ? "'" + word.replaceAll("'", "'\\''") + "'" : word;
}

function commandOf(test) {
  const exact = test[1].replace(/[\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e]/g, '%$&');
  const filter = quoted('^' + exact + '$'), file = quoted(data.files[test[2]]);
  return `minikvm test --trace --filter ${filter} ${file}`;
}

function details(test) {
  const [status, , , , run, where, message, kept, detail] = test;
  const bad = status === 1 || status === 2;
  const node = el('div', { class: 'in' });
  if (where || run > 1)
    node.append(el('p', { class: 'mono dim' }, (where || '') + (run > 1 ? ` (run ${run})` : '')));
  if (message) node.append(section(bad ? 'What failed' : 'Why', el('pre', {}, message)));
  if (bad && past(keyOf(test))) node.append(past(keyOf(test)));
  for (const vm of detail ? detail.vms : []) node.append(vmOf(vm));
  if (detail && detail.left_out)
    node.append(el('p', { class: 'dim' }, `${detail.left_out} more VMs are in its folder: there ` +
      'is no room for them on this page.'));
  const whole = test[1].length <= 240; // or else it is cut, and no name of a test
  node.append(section('Again', whole ? el('pre', {}, commandOf(test)) : null,
    kept ? el('p', { class: 'dim' }, kept) : null,
    detail && shared(detail.command) ? el('details', {}, el('summary', {}, 'reproduce.sh'),
      el('pre', {}, shared(detail.command))) : null));
  return node;
}

// ---- all tests ----

const list = el('main', {});
const shown = { status: '', text: '', most: 2000 };

function badge(test) {
  if (!before) return null;
  const bad = CLASSES[test[0]] === 'bad', was = failedBefore.has(keyOf(test));
  if (bad && !was && before.bad <= before.failed.length) return el('span', { class: 'bad' }, 'new');
  return !bad && was && test[0] === 0 ? el('span', { class: 'pass' }, 'mended') : null;
}

function row(test, open) {
  const node = el('details', { class: 'test' }, el('summary', {},
    el('span', { class: CLASSES[test[0]] }, WORDS[test[0]]), el('span', { class: 'name' }, test[1]),
    badge(test), el('span', { class: 'dim mono' }, data.files[test[2]]),
    el('span', { class: 'dim mono' }, test[3].toFixed(3) + ' s')));
  const fill = () => { if (node.open && node.childElementCount === 1) node.append(details(test)); };
  node.addEventListener('toggle', fill);
  if (open) { node.open = true; fill(); }
  return node;
}

function draw() {
  const words = shown.text.toLowerCase().split(/\s+/).filter((word) => word);
  const fits = (t) => (!shown.status || CLASSES[t[0]] === shown.status) && words.every((word) =>
    (t[1] + ' ' + data.files[t[2]] + ' ' + (t[6] || '')).toLowerCase().includes(word));
  const found = data.tests.filter(fits);
  const order = (t) => CLASSES[t[0]] === 'bad' ? 0 : 1;
  found.sort((a, b) => order(a) - order(b));
  const nodes = found.slice(0, shown.most).map((t, i) => row(t, i === 0 && order(t) === 0));
  list.replaceChildren(el('p', { class: 'dim' }, `${found.length} of ${data.tests.length} tests`),
    ...nodes);
  if (found.length > shown.most) {
    const more = el('button', {}, `${found.length - shown.most} more`);
    more.addEventListener('click', () => { shown.most *= 4; draw(); });
    list.append(more);
  }
}

function controls() {
  const search = el('input', { type: 'search', placeholder: 'search names, files, messages',
    'aria-label': 'search' });
  search.addEventListener('input', () => { shown.text = search.value; draw(); });
  const bar = el('div', { class: 'bar' }, search), buttons = [];
  for (const [status, text] of [['', 'all'], ['bad', `${last.bad} failed`],
    ['pass', `${last.pass} passed`], ['skip', `${last.skip} skipped`]]) {
    const button = el('button', { 'aria-pressed': status === '', class: status }, text);
    button.addEventListener('click', () => {
      shown.status = status;
      buttons.forEach((other) => other.setAttribute('aria-pressed', other === button));
      draw();
    });
    buttons.push(button);
    bar.append(button);
  }
  return bar;
}

document.title = (last.bad ? `${last.bad} failed` : 'passed') + ' - minikvm test';
document.body.append(el('h1', {}, `${last.pass} passed, ${last.bad} failed, ${last.skip} skipped`),
  el('p', { class: 'dim' }, `${day(last.time)} on ${data.host}, ${last.seconds.toFixed(2)} s` +
    (data.note ? `; ${data.note}` : '')),
  ...(runs.length > 1 ? [trend()] : []), controls(), list);
draw();
document.body.dataset.ready = performance.now().toFixed(0);
]==]

local PAGE <const> = [[
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">%s
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width"><title>minikvm test</title>
<link rel="icon" href="data:,">
<style>
%s</style></head><body>
<noscript>The results are in this page as data; showing them takes JavaScript.</noscript>
<script type="application/json" id="data">%s</script>
<script>
%s</script>
</body></html>
]]

---@param mark string  what tells our pages from others'
---@param data string  JSON without "<"
---@return string
function M.of(mark, data)
  return PAGE:format(mark, STYLE, data, SCRIPT)
end

return M
