// What keys and buttons do.

import { Data } from './review-data.js';
import { Picker } from './review-picker.js';
import { View, count, phrase } from './review-view.js';

const $ = (id) => document.getElementById(id);
const data = new Data();
const view = new View(data);
const picker = new Picker();
const recent = [];
let queue = Promise.resolve();

// One after the other: a key that is pressed while a mark is written is for what is shown then.
const then = (work) => (queue = queue.then(work).catch((error) => view.say(error.message, true)));

async function mark(kind, label = '') {
  const pictures = view.targets();
  if (!pictures.length) return;
  const whole = !view.selected.size && data.inside === null && pictures.length > 1;
  await data.mark(pictures, kind, label, whole ? view.cell.group : null);
  if (kind) remember({ kind, label });
  const marked = view.selected.size > 0;
  view.selected.clear();
  // Where marked pictures stay in view, the next one is the next decision.
  if (kind && !marked && data.filter.show !== 'todo') view.at += 1;
  view.draw({ focus: true });
  view.say(`${kind ? phrase({ kind, label }) : 'no mark'}: ${count(pictures.length, 'picture')}`);
}

function remember(one) {
  if (one.kind === 'stranger' || one.kind === 'bad picture' || recent.length === 9) return;
  if (recent.some((old) => old.kind === one.kind && old.label === one.label)) return;
  recent.push(one);
  const item = document.createElement('li');
  const button = Object.assign(document.createElement('button'), { type: 'button', textContent: phrase(one) });
  button.append(Object.assign(document.createElement('kbd'), { textContent: recent.length }));
  button.addEventListener('click', () => then(() => mark(one.kind, one.label)));
  item.append(button);
  $('recent').append(item);
}

async function undo() {
  if (!data.steps) { view.say('There is nothing to take back in this session.'); return; }
  const changed = await data.undo();
  view.draw({ lead: changed[0] ?? null, focus: true });
  view.say(`taken back: ${count(changed.length, 'picture')}`);
}

function pick(kind) {
  const pictures = view.targets();
  if (!pictures.length) return;
  const { label } = data.pictures[view.cell.lead];
  const title = `${kind === 'known' ? 'Known: which class?' : 'New class: what is it called?'} (${count(pictures.length, 'picture')})`;
  const names = kind === 'known' ? [...data.classes].sort((a, b) => (b === label) - (a === label)) : data.made;
  picker.open(title, names, kind !== 'known', (name) => mark(kind, name));
}

const known = () => {
  const { label } = data.pictures[view.cell.lead];
  return data.classes.includes(label) ? then(() => mark('known', label)) : pick('known');
};

function enter() {
  if (data.inside !== null || (view.cell?.numbers.length ?? 0) < 2) return;
  data.inside = view.cell.group;
  view.selected.clear();
  view.at = 0;
  view.draw({ focus: true });
  scrollTo(0, 0);
}

function leave() {
  if (view.selected.size) view.selected.clear();
  else if (data.inside !== null) {
    const lead = data.inside;
    data.inside = null;
    view.draw({ lead, focus: true });
    return;
  }
  view.draw({ focus: true });
}

function select(numbers) {
  const all = numbers.every((one) => view.selected.has(one));
  for (const one of numbers) if (all) view.selected.delete(one); else view.selected.add(one);
  view.draw({ focus: true });
  view.say(`${count(view.selected.size, 'picture')} selected`);
}

async function regroup(step) {
  const levels = data.found.levels;
  const level = levels[Math.max(0, Math.min(levels.length - 1, levels.indexOf(data.found.level) + step))];
  const lead = view.cell?.lead ?? null;
  await data.regroup(level);
  view.draw({ lead, focus: true });
  view.say(`look-alikes: ${level}, ${count(view.cells.length, 'decision')}`);
}

const KEYS = {
  ArrowRight: () => view.choose(view.at + 1),
  ArrowLeft: () => view.choose(view.at - 1),
  ArrowDown: () => view.choose(view.at + view.columns()),
  ArrowUp: () => view.choose(view.at - view.columns()),
  Home: () => view.choose(0),
  End: () => view.choose(view.cells.length - 1),
  Enter: enter,
  Escape: leave,
  ' ': () => view.cell && select(view.cell.numbers),
  x: () => view.cell && select(view.cell.numbers),
  a: () => select(view.cells.flatMap((cell) => cell.numbers)),
  k: () => view.cell && known(),
  c: () => pick('known'),
  n: () => pick('new class'),
  s: () => then(() => mark('stranger')),
  b: () => then(() => mark('bad picture')),
  0: () => then(() => mark('')),
  u: () => then(undo),
  f: () => $('show').focus(),
  '[': () => then(() => regroup(-1)),
  ']': () => then(() => regroup(1)),
  '?': () => $('help').showModal(),
};

document.addEventListener('keydown', (event) => {
  if (event.target.closest('dialog')) return;
  const field = event.target.closest('input, select');
  if (field) {
    if (event.key === 'Escape') view.focus();
    return;
  }
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'z') {
    event.preventDefault();
    then(undo);
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inGrid = event.target.closest('.cell') || event.target === document.body || event.target.id === 'grid';
  // Other buttons keep what Enter and the space bar do.
  if ((event.key === 'Enter' || event.key === ' ') && !inGrid) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const one = /^[1-9]$/.test(key) && recent[Number(key) - 1];
  const act = one ? () => then(() => mark(one.kind, one.label)) : KEYS[key];
  if (!act) return;
  event.preventDefault();
  act();
});

$('grid').addEventListener('click', (event) => {
  const cell = event.target.closest('.cell');
  if (!cell) return;
  view.choose(Number(cell.dataset.index));
  if (event.ctrlKey || event.metaKey || event.shiftKey) select(view.cell.numbers);
});
$('grid').addEventListener('dblclick', enter);
for (const [id, key] of Object.entries({
  'mark-known': 'k', 'mark-other': 'c', 'mark-stranger': 's', 'mark-new': 'n', 'mark-bad': 'b', 'mark-none': '0',
  undo: 'u', back: 'Escape', 'open-group': 'Enter', 'help-open': '?',
})) $(id).addEventListener('click', () => KEYS[key]());

$('filters').addEventListener('submit', (event) => event.preventDefault());
$('filters').addEventListener('input', (event) => {
  if (event.target.id === 'level') {
    then(async () => { await data.regroup($('level').value); view.draw(); });
    return;
  }
  const { filter } = data;
  Object.assign(filter, { show: $('show').value, label: $('label').value, order: $('order').value });
  if (event.target.id === 'score') { filter.score = $('score').value; $('from').value = $('to').value = ''; bounds(); }
  filter.from = $('from').valueAsNumber;
  filter.to = $('to').valueAsNumber;
  view.at = 0;
  view.draw();
});

function bounds() {
  const [low, high] = data.bounds();
  $('from').placeholder = low.toPrecision(3);
  $('to').placeholder = high.toPrecision(3);
}

function option(value, text = value) {
  return Object.assign(document.createElement('option'), { value, textContent: text });
}

async function poll() {
  while (!data.found.finished) {
    await new Promise((resolve) => setTimeout(resolve, 700));
    try {
      const lead = view.cell?.lead ?? null;
      const focus = Boolean(document.activeElement?.closest?.('.cell'));
      if (await data.look()) view.draw({ lead, focus }); else view.drawStatus();
    } catch (error) {
      view.say(error.message, true);
      return;
    }
  }
  if (view.cell) view.drawNear(view.cell.lead);
}

async function begin() {
  await data.load();
  $('folder').textContent = data.overview.folder;
  document.title = `review: ${data.overview.folder}`;
  $('marks-file').textContent = data.overview.marks_file;
  const labels = new Map();
  for (const { label } of data.pictures) labels.set(label, (labels.get(label) ?? 0) + 1);
  $('label').append(...[...labels].sort().map(([label, many]) => option(label, `${label} (${many})`)));
  $('score').append(option('score', 'OOD score'), option('margin', 'distance to the threshold'), option('percentile', 'percentile'), option('probability', 'probability of the label'),
    ...data.scores.map(({ name, title }) => option(`of:${name}`, `${title}, percentile`)));
  $('level').append(...data.found.levels.map((level) => option(level)));
  for (const one of data.marks.values()) remember(one);
  bounds();
  view.draw({ focus: true });
  await poll();
}

begin().catch((error) => view.say(error.message, true));
