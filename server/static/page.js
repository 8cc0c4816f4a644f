// The page: wires files, keys and the slider to the queue, the verdicts and the panels.

import { call, hasKey, Problem, useKey } from './page-api.js';
import { fits } from './page-judge.js';
import { showNearest } from './page-near.js';
import { showCard, showThresholds, showTraffic } from './page-panels.js';
import { Queue } from './page-queue.js';
import { between, number, percent, promised, sayings, showAxis, showInStrip, showResult, tally } from './page-result.js';
import { showSamples } from './page-samples.js';

const $ = (id) => document.getElementById(id);
const EVERY = 5000;
let card = null;
let index = 0;
let chosen = null;
let speaking = 0;
let stale = false;
// Given before the model card was here.
const early = [];
// Every card seen: an answer is judged again by the thresholds of the model that gave it.
const cards = [];
const accept = () => card.accepts[index];

const queue = new Queue({
  limits: () => card.limits,
  accept,
  changed,
  dropped: (item) => document.getElementById(`item-${item.id}`)?.remove(),
  denied: () => askForKey(hasKey() ? 'The server does not know this key.' : ''),
});

// The model

async function loadCard() {
  const wanted = card?.accepts[index];
  card = await (await call('model')).json();
  cards.unshift(card);
  stale = false;
  const place = card.accepts.indexOf(wanted);
  index = place >= 0 ? place : card.accepts.indexOf(card.targets.accept);
  $('model-name').textContent = `${card.model.name}, version ${card.model.version}`;
  document.title = `${card.model.name} · oodguard`;
  const slider = $('accept');
  slider.max = card.accepts.length - 1;
  slider.value = index;
  $('accept-low').textContent = promised(card.accepts[0]);
  $('accept-high').textContent = promised(card.accepts.at(-1));
  $('accept-most').textContent = `${card.fused.scale.samples} calibration images can promise ${promised(card.max_accept)} at most.`;
  for (const id of ['work', 'control']) $(id).hidden = false;
  showCard(card, index);
  judgeAll();
  showSamples(card, take);
  take(early.splice(0));
}

async function connect() {
  try {
    await loadCard();
    $('key-form').hidden = true;
    $('forget').hidden = !hasKey();
    queue.unlock();
    await watch();
  } catch (error) {
    fail(error);
  }
}

/** The server's state and traffic; the card again when the model was replaced. */
async function watch() {
  try {
    const report = await (await call('traffic')).json();
    state(report.not_ready ? 'warn' : 'ready', report.not_ready ? `Not ready: ${report.not_ready}` : 'Ready');
    showTraffic(report);
    const { name, version } = report.model;
    if (stale || !card || card.model.name !== name || card.model.version !== version) await loadCard();
    if ($('key-form').hidden) queue.unlock();
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  if (!(error instanceof Problem)) throw error;
  if (error.status === 401) askForKey(hasKey() ? 'The server does not know this key.' : '');
  else if (error.status === 0) state('offline', 'Offline');
  else state('warn', `${error.title} (${error.status})`);
}

function state(kind, text) {
  $('state').dataset.state = kind;
  if ($('state').textContent !== text) $('state').textContent = text;
}

// The key

function askForKey(error) {
  state('locked', 'Key needed');
  $('key-error').textContent = error;
  if (!$('key-form').hidden) return;
  $('key-form').hidden = false;
  $('key').focus();
}

$('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const value = $('key').value.trim();
  if (!/^[\x21-\x7e]+$/.test(value)) {
    $('key-error').textContent = 'A key has no spaces and only plain characters.';
    return;
  }
  useKey(value, $('key-keep').checked);
  $('key').value = '';
  $('key-error').textContent = '';
  connect();
});

$('forget').addEventListener('click', () => {
  useKey('', false);
  location.reload();
});

// Images

function take(files) {
  if (!card) early.push(...files);
  if (!card || !files.length) return;
  const first = queue.add(files.map((file) => (file instanceof File ? { blob: file, name: file.name || 'image' } : file)));
  choose(first);
}

$('files').addEventListener('change', (event) => {
  take([...event.target.files]);
  event.target.value = '';
});
for (const name of ['dragenter', 'dragover', 'dragleave', 'drop']) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.toggleAttribute('data-dragging', name === 'dragover' || name === 'dragenter');
    if (name === 'drop') take(dropped(event.dataTransfer.items));
  });
}
/** The files among what was dropped; a folder looks like one and cannot be read. */
function dropped(items) {
  return [...items].filter((item) => item.kind === 'file' && !item.webkitGetAsEntry?.()?.isDirectory)
    .map((item) => item.getAsFile()).filter(Boolean);
}

document.addEventListener('paste', (event) => {
  if (event.clipboardData?.files.length) take([...event.clipboardData.files]);
});

function choose(item) {
  chosen = item;
  $('stage').removeAttribute('data-empty');
  $('result').hidden = false;
  queue.items.forEach(drawInStrip);
  draw();
  tell(item);
}

$('photo').addEventListener('error', () => { $('photo').hidden = true; });
$('photo').addEventListener('load', () => { $('photo').hidden = false; });
$('again').addEventListener('click', () => queue.again(chosen));
$('clear').addEventListener('click', () => {
  queue.clear();
  chosen = null;
  $('stage').dataset.empty = '';
  for (const id of ['result', 'judged', 'strip', 'more', 'clear']) $(id).hidden = true;
  $('tally').textContent = '';
  $('files').focus();
  say('All images cleared');
});

function changed(item) {
  if (item.state === 'done' && !item.card) item.card = cards.find((one) => fits(item.answer, one));
  if (item.state === 'done' && !item.card) {
    // The model was replaced a moment ago: its thresholds first, then the image again.
    stale = true;
    queue.postpone(item);
    watch();
  }
  drawInStrip(item);
  draw();
  if (item.problem?.status === 0) state('offline', 'Offline');
  if (item === chosen) tell(item);
}

function drawInStrip(item) {
  showInStrip(item, accept(), { chosen: item === chosen, choose });
}

function draw() {
  const { counts, text } = tally(queue.items, accept());
  $('tally').textContent = text;
  $('strip').hidden = queue.items.length < 2;
  $('more').hidden = $('clear').hidden = !queue.items.length;
  $('work').setAttribute('aria-busy', String(counts.busy > 0));
  if (chosen) {
    showResult(chosen, accept());
    showNearest(chosen);
  }
}

// Judging again

function judgeAll() {
  const slider = $('accept');
  const text = promised(card.accepts[index]);
  $('accept-value').textContent = text;
  slider.style.setProperty('--at', `${(100 * index) / Math.max(1, card.accepts.length - 1)}%`);
  queue.items.forEach(drawInStrip);
  draw();
  const said = chosen?.state === 'done' ? `: ${sayings(chosen, accept()).title.toLowerCase()}` : '';
  const { counts } = tally(queue.items, accept());
  const judged = counts.in + counts.unsure + counts.out;
  const all = judged > 1 ? `; ${counts.out} of ${judged} images out` : '';
  slider.setAttribute('aria-valuetext', `${text}, threshold ${number(card.fused.thresholds[index])}${said}${all}`);
}

$('accept').addEventListener('input', (event) => {
  index = Number(event.target.value);
  judgeAll();
  showThresholds(card, index);
});

// Speaking

function spoken(item) {
  const { title, prediction, judged } = sayings(item, accept());
  if (judged?.isUnsure) return `${item.name}: ${title}, ${between(judged.labels)}.`;
  if (!prediction) return `${item.name}: ${title}. ${item.problem?.detail ?? ''}`;
  return `${item.name}: ${title}. ${judged.isOod ? 'Closest class' : 'Class'} ${prediction.label}, ${percent(prediction.probability)}. `
    + `Fused score ${number(judged.score)}, threshold ${number(judged.threshold)}.`;
}

function tell(item) {
  if (item.state === 'done' || item.state === 'failed') say(spoken(item));
}

function say(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => { $('spoken').textContent = text; }, 150);
}

showAxis();
connect();
setInterval(() => {
  if (document.visibilityState === 'visible' && $('key-form').hidden) (card ? watch : connect)();
}, EVERY);
const look = () => {
  if (document.visibilityState === 'visible' && card && $('key-form').hidden) watch();
};
document.addEventListener('visibilitychange', look);
addEventListener('online', look);
addEventListener('offline', look);
