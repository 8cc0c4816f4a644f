// Why: the scores that decided, and the nearest training photos beside the image.

import { call } from './page-api.js';
import { make, number } from './page-result.js';

const $ = (id) => document.getElementById(id);
// Small copies by the photo's hash: an address to show, null where there is none.
const copies = new Map();
let shown = null;

/** Show an item's explanation; nothing where its answer has none. */
export function showNearest(item) {
  const explanation = item.state === 'done' ? item.answer.predictions[0].explanation : null;
  $('near').hidden = !explanation;
  if (!explanation || shown === explanation) return;
  shown = explanation;
  $('near-decided').textContent = decided(explanation, item.card);
  const photos = explanation.neighbours;
  $('near-title').hidden = $('near-list').hidden = !photos.length;
  $('near-list').replaceChildren(
    ...(item.card.thumbnails ? [picture({ src: item.url, title: 'Your image', detail: item.name })] : []),
    ...photos.map((photo) => neighbour(photo, item.card)),
  );
}

function decided({ decided_by: family, scores }, card) {
  const [first] = scores;
  const title = card.detectors.find(({ name }) => name === first.name)?.title ?? first.name;
  return `The scores of ${family} decide here, ${title} most of all: ${number(first.percentile)}\u00a0% of in-distribution images score lower.`;
}

function neighbour({ label, distance, sha256 }, card) {
  const node = picture({ title: label, detail: `distance ${number(distance)}` });
  if (card.thumbnails) {
    copy(sha256).then((address) => {
      if (address) node.prepend(make('img', { src: address, alt: `Training photo of ${label}`, decoding: 'async' }));
    });
  }
  return node;
}

function picture({ src, title, detail }) {
  return make('li', {},
    ...(src ? [make('img', { src, alt: '', decoding: 'async', on: { error: (event) => { event.target.hidden = true; } } })] : []),
    make('b', { text: title }), make('span', { class: 'quiet small', text: detail }));
}

function copy(sha256) {
  if (!copies.has(sha256)) {
    copies.set(sha256, call(`thumbnails/${sha256}`).then((found) => found.blob()).then(URL.createObjectURL, () => {
      copies.delete(sha256);
      return null;
    }));
  }
  return copies.get(sha256);
}
