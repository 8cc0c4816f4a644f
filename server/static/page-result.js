// One image's verdict, its scores, and the strip of all images.

import { judge, rarity, surprise } from './page-judge.js';

const $ = (id) => document.getElementById(id);
// The bars end where one in 3,000 in-distribution images scores as high.
const LONGEST = Math.log(3000);
const OTHERS = 4;
// Classes of a label set that are named.
const NAMED = 5;
const TICKS = [2, 10, 100, 1000];

/** An element with its text, attributes and children. */
export function make(tag, { text, on = {}, ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  node.append(...children);
  return node;
}

/** A share in percent. */
export const percent = (share) => `${Math.round(share * 1000) / 10}\u00a0%`;

/** A target acceptance in percent, never more than it promises. */
export const promised = (share) => `${Math.floor(share * 1000 + 1e-6) / 10}\u00a0%`;

export const number = (value) => {
  const size = Math.abs(value);
  return value.toLocaleString('en', { maximumFractionDigits: size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3 });
};

// The trait of a picture that each reason of its quality names.
const TRAITS = { small: 'smallness', dark: 'darkness', overexposed: 'overexposure', blurred: 'blur' };
const WAITING = { waiting: 'Waiting', sending: 'Looking' };

// The place of a target acceptance on a card; a replaced model may promise less than the one served now.
const stop = (card, accept) => Math.max(0, card.accepts.findLastIndex((one) => one <= accept));

/** What to say of an item: the `kind` colours it, `title` is the verdict. */
export function sayings(item, accept) {
  if (item.state === 'failed') {
    return { kind: 'error', mark: '!', title: item.problem.title, short: item.problem.title };
  }
  if (item.state !== 'done') {
    const title = item.problem?.status === 429 || item.problem?.status === 503 ? 'Server is busy' : WAITING[item.state];
    return { kind: 'busy', mark: '…', title, short: title };
  }
  const [prediction] = item.answer.predictions;
  const judged = judge(prediction, item.card, stop(item.card, accept));
  if (judged.isUnsure) {
    return { kind: 'unsure', mark: '?', title: 'In distribution, but unsure', short: `unsure, ${between(judged.labels)}`, prediction, judged };
  }
  return judged.isOod
    ? { kind: 'out', mark: '✕', title: 'Out of distribution', short: `out of distribution, closest to ${prediction.label}`, prediction, judged }
    : { kind: 'in', mark: '✓', title: 'In distribution', short: `in distribution, ${prediction.label}`, prediction, judged };
}

/** Show one item large. */
export function showResult(item, accept) {
  const said = sayings(item, accept);
  $('result').dataset.kind = said.kind;
  if ($('photo').src !== item.url) $('photo').src = item.url;
  $('photo').alt = `Your image ${item.name}`;
  $('photo-name').textContent = item.name;
  setText($('verdict'), said.title);
  $('again').hidden = item.state !== 'failed' || ![0, 401, 408, 429, 500, 503, 504].includes(item.problem.status);
  const { prediction, judged } = said;
  showFitness(prediction?.quality);
  $('others').hidden = !prediction;
  $('judged').hidden = !prediction;
  if (!prediction) {
    $('answer').replaceChildren();
    $('because').textContent = item.problem ? sentence(item.problem) : '';
    return;
  }
  $('answer').replaceChildren(...decision(prediction, judged));
  $('because').textContent = `Fused score ${number(judged.score)}, threshold ${number(judged.threshold)}: `
    + (judged.percentile >= 100 ? 'every in-distribution image scores lower.' : `${number(judged.percentile)}\u00a0% of in-distribution images score lower.`);
  $('top').replaceChildren(...prediction.top_k.slice(1, OTHERS + 1).map(
    ({ label, probability }) => make('li', {}, `${label} `, make('span', { class: 'quiet', text: percent(probability) })),
  ));
  showBars(judged, item.card);
}

// Whether the picture itself may be why it was flagged.
function showFitness(quality) {
  const reason = quality?.reason;
  $('fitness').hidden = !reason;
  if (!reason) return;
  const share = quality[TRAITS[reason]];
  $('fitness').textContent = `The picture is ${reason}: ` + (share >= 100
    ? 'no training photo is as much so.' : `${number(share)}\u00a0% of the training photos are less so.`);
}

const listed = (labels) => (labels.length < 2 ? labels.join('') : `${labels.slice(0, -1).join(', ')} and ${labels.at(-1)}`);
const shown = (labels) => (labels.length > NAMED ? [...labels.slice(0, NAMED), 'others'] : labels);

/** The classes between which an unsure image is. */
export const between = (labels) => (labels.length < 2 ? `perhaps ${listed(labels)}` : `between ${listed(shown(labels))}`);

// What to do with an image, in words: use its label, look at it, or treat it as a stranger.
function decision(prediction, { isOod, isUnsure, labels }) {
  const label = make('b', { text: prediction.label });
  if (isOod) return ['Stranger: do not trust the label ', label];
  const chance = make('span', { class: 'quiet', text: `, right with a chance of ${percent(prediction.probability)}` });
  if (!isUnsure) return ['Answer: ', label, chance];
  const set = labels.length > 1 ? [`: ${between(labels)}. Most likely `, label] : [': perhaps ', label];
  return ['Unsure', ...set, chance];
}

function sentence({ detail: given, status, retryAfter }) {
  const detail = capital(given);
  if (status === 429 || (status === 503 && retryAfter)) return `${detail} Trying again${retryAfter ? ` in ${retryAfter} s` : ''}.`;
  return detail;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function showBars(judged, card) {
  const fused = { title: 'Fused score', meaning: 'all of them together; it decides', scale: card.fused.scale };
  const rows = [{ detector: fused, value: judged.score, ...judged }, ...judged.detectors];
  const bars = $('bars');
  while (bars.children.length < rows.length) bars.append(emptyBar());
  rows.forEach((row, place) => fillBar(bars.children[place], row, place === 0));
}

function emptyBar() {
  return make('li', {},
    make('div', { class: 'bar-head' }, make('b'), make('span', { class: 'quiet' })),
    make('div', { class: 'bar', role: 'meter', 'aria-valuemin': 0, 'aria-valuemax': 100 }, make('i'), make('u')),
    make('p', { class: 'quiet small' }));
}

function fillBar(node, { detector, value, percentile, threshold, isOod }, first) {
  const [head, bar, meaning] = node.children;
  const rare = rarity(detector.scale, value);
  node.className = [isOod ? 'over' : 'under', first ? 'fused' : ''].join(' ').trim();
  head.children[0].textContent = capital(detector.title);
  head.children[1].textContent = rare;
  meaning.textContent = capital(detector.meaning);
  bar.setAttribute('aria-label', capital(detector.title));
  bar.setAttribute('aria-valuenow', percentile.toFixed(1));
  bar.setAttribute('aria-valuetext',
    `${number(value)}, ${isOod ? 'over' : 'within'} its threshold ${number(threshold)}; ${rare}`);
  bar.children[0].style.width = along(surprise(detector.scale, value));
  bar.children[1].style.left = along(surprise(detector.scale, threshold));
  bar.title = `${number(value)} against ${number(threshold)}`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const along = (nats) => `${Math.min(100, (100 * nats) / LONGEST).toFixed(2)}%`;

/** The axis over the bars. */
export function showAxis() {
  $('axis').replaceChildren(...TICKS.map((oneIn) => {
    const tick = make('span', { text: `1 in ${oneIn.toLocaleString('en')}` });
    tick.style.left = along(Math.log(oneIn));
    return tick;
  }));
}

/** Make or bring up to date an item's place in the strip. */
export function showInStrip(item, accept, { chosen, choose }) {
  let node = document.getElementById(`item-${item.id}`);
  if (!node) {
    const button = make('button', { type: 'button', on: { click: () => choose(item) } },
      make('img', { src: item.url, alt: '', decoding: 'async', on: { error: (event) => { event.target.hidden = true; } } }),
      make('span', { class: 'badge', 'aria-hidden': 'true' }), make('span', { class: 'hidden' }));
    node = make('li', { id: `item-${item.id}` }, button);
    $('strip').append(node);
  }
  const button = node.firstElementChild;
  const said = sayings(item, accept);
  button.dataset.kind = said.kind;
  button.setAttribute('aria-pressed', String(chosen));
  button.title = item.name;
  button.children[1].textContent = said.mark;
  button.children[2].textContent = `${item.name}: ${said.short}`;
}

/** How many images came out how. */
export function tally(items, accept) {
  const counts = { in: 0, unsure: 0, out: 0, error: 0, busy: 0 };
  for (const item of items) counts[sayings(item, accept).kind] += 1;
  const parts = [[counts.in, 'in'], [counts.unsure, 'unsure'], [counts.out, 'out'], [counts.error, 'failed'], [counts.busy, 'to go']];
  const text = parts.filter(([count]) => count).map(([count, word]) => `${count} ${word}`).join(', ');
  return { counts, text: items.length > 1 ? `${items.length} images: ${text}` : '' };
}
