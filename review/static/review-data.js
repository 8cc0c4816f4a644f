// What the page knows: pictures, groups and marks, and which of them the filters show, in which order.

async function answer(response) {
  const found = await response.json();
  if (!response.ok) throw new Error(found.detail);
  return found;
}

async function ask(path, body) {
  try {
    return await answer(await fetch(path, body === undefined ? {} : {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body),
    }));
  } catch (error) {
    if (error instanceof TypeError) throw new Error('oodguard review has stopped; start it again and load its new address');
    throw error;
  }
}

const median = (values) => {
  const sorted = values.slice().sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

// Ascending: what comes first has the smallest value.
const ORDERS = {
  certain: (all) => [median(all.map((one) => one.margin)), median(all.map((one) => one.probability))],
  score: (all) => [-Math.max(...all.map((one) => one.score)), 0],
  time: (all) => [-Math.max(...all.map((one) => one.time)), 0],
  size: (all) => [-all.length, median(all.map((one) => one.margin))],
};

export class Data {
  constructor() {
    this.pictures = [];
    this.marks = new Map();
    this.groups = [];
    this.found = { version: -1, finished: false };
    this.filter = { show: 'todo', label: '', score: 'score', from: NaN, to: NaN, order: 'certain' };
    this.inside = null;
  }

  async load() {
    const [overview, marks] = await Promise.all([ask('overview'), ask('marks'), this.look()]);
    Object.assign(this, { classes: overview.classes, scores: overview.scores, overview });
    this.pictures = overview.pictures;
    this.take(marks);
  }

  take(found) {
    this.marks = new Map(Object.entries(found.marks).map(([number, mark]) => [Number(number), mark]));
    this.made = found.new;
    this.steps = found.steps;
  }

  // Whether the groups are other ones than before.
  async look() {
    const found = await ask(`groups?have=${this.found.version}`);
    return this.group(found);
  }

  group(found) {
    const changed = found.groups !== null && found.version !== this.found.version;
    this.found = found;
    if (changed) {
      this.groups = found.groups;
      this.of = new Map();
      for (const group of this.groups) for (const number of group) this.of.set(number, group);
    }
    return changed;
  }

  async regroup(level) { this.group(await ask('regroup', { level })); }
  async near(number) { return ask(`near/${number}`); }

  async mark(pictures, kind, label, group) {
    this.take(await ask('mark', { pictures, mark: kind, label, group }));
  }

  async undo() {
    const found = await ask('undo', {});
    this.take(found);
    return found.changed;
  }

  value(picture, name = this.filter.score) {
    return name.startsWith('of:') ? picture.scores[name.slice(3)] : picture[name];
  }

  passes(number) {
    const { show, label, from, to } = this.filter;
    const picture = this.pictures[number];
    const kind = this.marks.get(number)?.kind;
    if (show === 'todo' ? kind : show !== 'all' && kind !== show) return false;
    if (label && picture.label !== label) return false;
    if (Number.isNaN(from) && Number.isNaN(to)) return true;
    const value = this.value(picture);
    return value !== undefined && !(value < from) && !(value > to);
  }

  // What is on the page: each cell has the pictures that one decision is for, the most typical one first.
  cells() {
    const groups = this.inside === null ? this.groups : (this.of.get(this.inside) ?? []).map((number) => [number]);
    const order = ORDERS[this.filter.order];
    const cells = [];
    for (const group of groups) {
      const numbers = group.filter((number) => this.passes(number));
      if (numbers.length) {
        cells.push({ lead: numbers[0], group: group[0], numbers, at: order(numbers.map((number) => this.pictures[number])) });
      }
    }
    return cells.sort((a, b) => a.at[0] - b.at[0] || a.at[1] - b.at[1] || a.lead - b.lead);
  }

  // The smallest and the largest value of the score that the filter is about.
  bounds() {
    const values = this.pictures.map((picture) => this.value(picture)).filter((value) => value !== undefined);
    return values.length ? [Math.min(...values), Math.max(...values)] : [0, 0];
  }
}
