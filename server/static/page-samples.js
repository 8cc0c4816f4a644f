// Images to try: the server's samples, and noise made here, which no classifier should know.

import { call } from './page-api.js';
import { make } from './page-result.js';

const MOST = 7;
let made = '';

/** Offer the card's samples; `take` queues the chosen one. */
export async function showSamples(card, take) {
  const model = `${card.model.name} ${card.model.version}`;
  if (made === model) return;
  made = model;
  const list = document.getElementById('sample-list');
  list.replaceChildren();
  document.getElementById('samples').hidden = false;
  const noise = await draw();
  offer(list, noise, 'noise', take);
  for (const { number, title } of card.samples.slice(0, MOST)) {
    try {
      offer(list, await (await call(`samples/${number}`)).blob(), title, take);
    } catch { /* one image less to try */ }
  }
}

function offer(list, blob, title, take) {
  const image = make('img', { src: URL.createObjectURL(blob), alt: '' });
  const button = make('button', { type: 'button', 'aria-label': `Try ${title}`, title, on: { click: () => take([{ blob, name: title }]) } }, image);
  const noise = list.querySelector('[data-noise]');
  const item = make('li', { 'data-noise': title === 'noise' ? '' : null }, button);
  if (noise) list.insertBefore(item, noise);
  else list.append(item);
}

/** Coloured noise under stripes, as a PNG. */
function draw() {
  const canvas = make('canvas', { width: 160, height: 160 });
  const context = canvas.getContext('2d');
  for (let y = 0; y < 160; y += 5) {
    for (let x = 0; x < 160; x += 5) {
      context.fillStyle = `hsl(${Math.floor(360 * Math.random())} 90% ${20 + Math.floor(60 * Math.random())}%)`;
      context.fillRect(x, y, 5, y % 20 ? 5 : 2);
    }
  }
  return new Promise((resolve) => { canvas.toBlob(resolve, 'image/png'); });
}
