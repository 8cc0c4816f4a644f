// The traffic of the last minute, and the model card.

import { make, number, percent, promised } from './page-result.js';

const $ = (id) => document.getElementById(id);
const SHARES = { calibration_accuracy: 'Accuracy, calibration images', test_accuracy: 'Accuracy, test images', test_acceptance: 'Accepted, test images', test_calibration_error: 'Calibration error' };
const PASSES = /_seconds$|^seconds_|_split$/;

/** The last minute's traffic. */
export function showTraffic(report) {
  $('traffic').hidden = false;
  $('t-rate').textContent = report.images_per_s.toLocaleString('en', { maximumFractionDigits: report.images_per_s < 10 ? 2 : 0 });
  $('t-flagged').textContent = report.flagged_share === null ? '–' : percent(report.flagged_share);
  const { latency_ms: latency } = report;
  $('t-latency').textContent = latency ? `${short(latency.p50)} / ${short(latency.p95)} ms` : '–';
  $('t-queue').textContent = `${report.queue.images} of ${report.queue.limit}`;
  const notes = [];
  if (!report.images) notes.push(`No image in the last ${Math.round(report.window_s)} s.`);
  else if (report.window_s < 55) notes.push(`Of the last ${Math.round(report.window_s)} s.`);
  if (report.refused) notes.push(`${report.refused} refused.`);
  $('t-note').textContent = notes.join(' ');
  spark(report.intervals);
}

const short = (ms) => (ms < 10 ? number(ms) : Math.round(ms).toLocaleString('en'));

function spark(intervals) {
  const rates = intervals.filter(({ seconds }) => seconds > 1).map(({ images, seconds }) => images / seconds);
  const most = Math.max(1, ...rates);
  const points = rates.map((rate, place) => `${(240 * place) / Math.max(1, rates.length - 1)},${34 - (32 * rate) / most}`);
  const line = document.createElementNS('http://www.w3.org/2000/svg', 'polyline');
  line.setAttribute('points', points.join(' '));
  $('spark').replaceChildren(line);
}

/** What is known of the classifier that the guard was put around. */
function wrapped(classifier) {
  return {
    File: classifier.file, 'SHA-256': classifier.sha256.slice(0, 12), Producer: classifier.producer || 'not said', Opset: classifier.opset,
    Feature: `${classifier.feature} (${whole(classifier.width)})`, Batch: classifier.batch, Probabilities: 'its own',
    ...(classifier.labels === 'model' ? { Labels: 'its own answers' } : {}),
  };
}

/** The model card; `index` is the chosen target acceptance. */
export function showCard(card, index) {
  $('card').hidden = false;
  $('checks').replaceChildren(...card.checks.map(({ name, passed, detail }) => make('li', { class: passed ? 'passed' : 'failed' },
    make('span', { class: 'badge', 'aria-hidden': 'true', text: passed ? '✓' : '!' }),
    make('div', {}, make('b', { text: `${name}: ${passed ? 'passed' : 'look at this'}` }), make('p', { class: 'quiet', text: detail })))));
  const { data, runtime, limits, preprocessing } = card;
  const metrics = Object.entries(card.metrics).filter(([name]) => !PASSES.test(name));
  $('facts').replaceChildren(
    facts('Model', {
      Name: card.model.name, Version: card.model.version, Backbone: card.backbone, Precision: card.precision,
      Trained: card.created.slice(0, 10), Seed: card.seed,
    }),
    ...(card.classifier === null ? [] : [facts('Classifier', wrapped(card.classifier))]),
    facts('Data', {
      'Training images': whole(data.train_images), 'Calibration images': whole(data.calibration_images),
      Classes: whole(card.classes.length), 'Input': `${preprocessing.width ?? preprocessing.crop} × ${preprocessing.crop} pixels`,
      Fingerprint: data.fingerprint.slice(0, 12),
    }),
    facts('Answers keep', {
      'Target acceptance': promised(card.targets.accept),
      ...(card.targets.confidence === null ? { Kept: 'on average' } : { Kept: `with ${percent(card.targets.confidence)} confidence` }),
      ...(card.answers === null ? {} : {
        'Label sets hold the class': percent(card.targets.coverage), 'Wrong among answers': `at most ${percent(card.targets.max_error)}`,
      }),
    }),
    facts('Measured in training', Object.fromEntries(metrics.map(
      ([name, value]) => (name in SHARES ? [SHARES[name], percent(value)] : [name.replaceAll('_', ' '), number(value)]),
    ))),
    facts('Served by', {
      Engine: runtime.engine, Device: runtime.device, 'At once': runtime.max_batch === null ? `${runtime.inferences} requests` : `${runtime.inferences} × ${runtime.max_batch} images`,
      'Largest image': `${Math.floor(limits.image_bytes / 1048576) || number(limits.image_bytes / 1048576)} MB, ${number(limits.image_pixels / 1e6)} Mpx`,
      Types: limits.formats.join(', '),
      ...(card.shadow ? { Shadow: shadow(card.shadow) } : {}),
    }),
  );
  $('classes-title').textContent = `Classes (${whole(card.classes.length)})`;
  $('classes').replaceChildren(...card.classes.map((name) => make('li', { text: name })));
  showThresholds(card, index);
}

/** The thresholds at the chosen acceptance. */
export function showThresholds(card, index) {
  const rows = [{ title: 'Fused score', weight: '', thresholds: card.fused.thresholds },
    ...card.detectors.map((d) => ({ ...d, weight: weight(d) }))];
  $('thresholds').replaceChildren(
    make('caption', { class: 'quiet', text: `At a target acceptance of ${promised(card.accepts[index])}. Higher is more out of distribution, for every score.` }),
    make('thead', {}, make('tr', {}, ...['Score', 'Threshold', 'In the fused score'].map((text) => make('th', { scope: 'col', text })))),
    make('tbody', {}, ...rows.map((row) => make('tr', {}, make('th', { scope: 'row', text: row.title }),
      make('td', { text: number(row.thresholds[index]) }), make('td', { text: row.weight })))),
  );
}

const shadow = ({ state, share, model }) => (state === 'judging' ? `${model.name}, version ${model.version}, on ${percent(share)} of the images` : state);
const weight = ({ weight }) => weight ? `${(100 * weight).toFixed(0)} % of the flag` : 'shown only';
const whole = (value) => value.toLocaleString('en');

function facts(title, entries) {
  return make('div', {}, make('h3', { text: title }),
    make('dl', {}, ...Object.entries(entries).map(([name, value]) => make('div', {}, make('dt', { text: name }), make('dd', { text: value })))));
}
