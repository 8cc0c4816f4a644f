// Drawing: the grid of cells, and the panel about the chosen one.

const $ = (id) => document.getElementById(id);
const CHUNK = 60;
const MEMBERS = 23;
const number = new Intl.NumberFormat('en');
const percent = (share) => `${Math.round(100 * share)} %`;
export const count = (many, noun) => `${number.format(many)} ${noun}${many === 1 ? '' : 's'}`;
export const phrase = (mark) => (mark.label ? `${mark.kind}: ${mark.label}` : mark.kind);

function make(tag, text, className) {
  const node = document.createElement(tag);
  if (text != null) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function image(source, alt = '') {
  const node = make('img');
  node.loading = 'lazy';
  node.decoding = 'async';
  node.alt = alt;
  node.src = source;
  return node;
}

export class View {
  constructor(data) {
    this.data = data;
    this.cells = [];
    this.shown = CHUNK;
    this.at = 0;
    this.selected = new Set();
    this.nodes = new Map();
    new IntersectionObserver((seen) => {
      if (seen[0].isIntersecting && this.shown < this.cells.length) { this.shown += CHUNK; this.drawGrid(); }
    }, { rootMargin: '600px' }).observe($('end'));
  }

  get cell() { return this.cells[this.at]; }

  // lead: the picture to choose, where it is there; else the place stays.
  draw({ lead = null, focus = false } = {}) {
    this.cells = this.data.cells();
    const there = lead === null ? -1 : this.cells.findIndex((cell) => cell.numbers.includes(lead));
    this.at = Math.max(0, Math.min(there >= 0 ? there : this.at, this.cells.length - 1));
    const left = new Set(this.cells.flatMap((cell) => cell.numbers));
    for (const one of this.selected) if (!left.has(one)) this.selected.delete(one);
    this.drawGrid();
    this.drawPanel();
    this.drawStatus();
    if (focus) this.focus();
  }

  focus() {
    const button = this.cell && this.nodes.get(this.cell.lead)?.firstChild;
    (button ?? $('grid')).focus({ preventScroll: true });
    button?.scrollIntoView({ block: 'nearest' });
  }

  drawGrid() {
    this.shown = Math.max(this.shown, CHUNK * Math.ceil((this.at + 1) / CHUNK));
    const some = this.cells.slice(0, this.shown);
    const nodes = some.map((cell, index) => this.drawCell(cell, index));
    const grid = $('grid');
    if (nodes.length !== grid.children.length || nodes.some((node, index) => node !== grid.children[index])) grid.replaceChildren(...nodes);
  }

  drawCell(cell, index) {
    const { pictures, marks } = this.data;
    const picture = pictures[cell.lead];
    let node = this.nodes.get(cell.lead);
    if (!node) {
      node = make('li');
      const button = make('button', null, 'cell');
      button.type = 'button';
      const small = image(`small/${cell.lead}`);
      small.addEventListener('error', () => button.classList.add('broken'));
      button.append(small, make('b', `${picture.label}`), make('span', '', 'quiet why'), make('span', '', 'tag'), make('i', '', 'count'), make('i', '✓', 'tick'));
      button.querySelector('b').replaceWith(Object.assign(make('span'), { className: 'name' }));
      button.querySelector('.name').append(make('b', picture.label), ` ${percent(picture.probability)}`);
      node.append(button);
      this.nodes.set(cell.lead, node);
    }
    const button = node.firstChild;
    const many = cell.numbers.length;
    const mark = marks.get(cell.lead);
    const picked = cell.numbers.every((one) => this.selected.has(one));
    button.classList.toggle('many', many > 1);
    button.tabIndex = index === this.at ? 0 : -1;
    button.dataset.index = index;
    button.dataset.lead = cell.lead;
    button.setAttribute('aria-pressed', String(picked));
    if (index === this.at) button.setAttribute('aria-current', 'true'); else button.removeAttribute('aria-current');
    button.querySelector('.why').textContent = `OOD score ${picture.score.toFixed(1)}`;
    const tag = button.querySelector('.tag');
    tag.hidden = !mark;
    tag.textContent = mark ? phrase(mark) : '';
    if (mark) button.dataset.mark = mark.kind; else delete button.dataset.mark;
    const badge = button.querySelector('.count');
    badge.hidden = many === 1;
    badge.textContent = many === 1 ? '' : number.format(many);
    badge.setAttribute('aria-label', `group of ${many}`);
    button.querySelector('.tick').hidden = !picked;
    return node;
  }

  choose(index) {
    if (!this.cells.length) return;
    this.at = Math.max(0, Math.min(index, this.cells.length - 1));
    this.drawGrid();
    this.drawPanel();
    this.focus();
  }

  columns() {
    return getComputedStyle($('grid')).gridTemplateColumns.split(' ').length;
  }

  targets() {
    return this.selected.size ? [...this.selected].sort((a, b) => a - b) : this.cell?.numbers ?? [];
  }

  drawPanel() {
    const { cell, data } = this;
    $('panel').hidden = !cell;
    if (!cell) return;
    const picture = data.pictures[cell.lead];
    const photo = $('photo');
    if (photo.dataset.number !== String(cell.lead)) {
      photo.dataset.number = cell.lead;
      photo.src = `small/${cell.lead}`;
      const large = new Image();
      large.addEventListener('load', () => { if (photo.dataset.number === String(cell.lead)) photo.src = large.src; });
      large.src = `large/${cell.lead}`;
      this.drawNear(cell.lead);
    }
    photo.alt = `picture labelled ${picture.label}, OOD score ${picture.score}`;
    $('photo-name').textContent = picture.file;
    $('title').textContent = `${picture.label}? ${percent(picture.probability)}`;
    $('said').textContent = `OOD score ${picture.score.toFixed(2)}, threshold ${picture.threshold.toFixed(2)}, ${picture.margin.toFixed(2)} apart`
      + (picture.decided ? `; decided by ${picture.decided}` : '');
    const mark = data.marks.get(cell.lead);
    $('marked').hidden = !mark;
    $('marked').textContent = mark ? `Marked ${phrase(mark)}` : '';
    if (mark) $('marked').dataset.mark = mark.kind;
    const many = this.targets().length;
    $('scope').textContent = this.selected.size ? `${count(many, 'selected picture')}:` : many > 1 ? `This group of ${number.format(many)}:` : 'This picture:';
    $('known-label').textContent = picture.label;
    $('mark-known').disabled = !data.classes.includes(picture.label);
    $('mark-none').disabled = !this.targets().some((one) => data.marks.has(one));
    this.drawMembers(cell);
    $('score-list').replaceChildren(...data.scores.filter(({ name }) => name in picture.scores).map(({ name, title }) => {
      const row = make('div', null, picture.over.includes(name) ? 'over' : '');
      row.append(make('dt', title), make('dd', `percentile ${picture.scores[name].toFixed(1)}${picture.over.includes(name) ? ', over' : ''}`));
      return row;
    }));
  }

  drawMembers(cell) {
    const others = cell.numbers.slice(1);
    $('members').hidden = !others.length;
    $('members-title').textContent = `${number.format(others.length)} more like it`;
    const some = others.slice(0, others.length > MEMBERS ? MEMBERS - 1 : MEMBERS);
    const items = some.map((one) => { const item = make('li'); item.append(image(`small/${one}`)); return item; });
    if (some.length < others.length) items.push(make('li', `+${number.format(others.length - some.length)}`, 'more'));
    $('member-list').replaceChildren(...items);
  }

  async drawNear(lead) {
    let found = [];
    try { found = await this.data.near(lead); } catch { /* the panel does without */ }
    if ($('photo').dataset.number !== String(lead)) return;
    $('near').hidden = !found.length;
    $('near-list').replaceChildren(...found.map((one) => {
      const item = make('li');
      if (one.sha256) item.append(image(`photo/${one.sha256}`));
      item.append(`${one.label}, ${one.distance.toFixed(2)}`);
      return item;
    }));
  }

  drawStatus() {
    const { data, cells } = this;
    const total = data.pictures.length;
    const marked = data.marks.size;
    $('bar').max = total;
    $('bar').value = marked;
    $('progress').textContent = `${number.format(marked)} of ${count(total, 'picture')} marked`;
    $('undo').disabled = !data.steps;
    const pictures = cells.reduce((sum, cell) => sum + cell.numbers.length, 0);
    $('summary').textContent = data.inside === null
      ? `${count(pictures, 'picture')} in ${count(cells.length, 'decision')}` + (data.found.finished ? '' : `; compared ${number.format(data.found.measured)} of ${number.format(data.found.total)}`)
      : `${count(pictures, 'picture')} of one group`;
    $('back').hidden = data.inside === null;
    $('empty').hidden = cells.length > 0;
    $('empty').textContent = marked === total ? `All ${count(total, 'picture')} are marked. Stop the tool; it prints the next command.`
      : data.inside !== null ? 'Nothing in this group is left. Press Esc.' : 'The filters show nothing. Choose others.';
    const bad = data.overview.unreadable;
    $('rule').textContent = `Look-alikes are grouped ${data.found.rule}.`
      + (bad.length ? ` ${count(bad.length, 'file')} cannot be used, the first: ${bad[0].file} (${bad[0].why}).` : '');
    const level = $('level');
    if (level.value !== data.found.level) level.value = data.found.level;
    if (data.found.problem) this.say(data.found.problem, true);
  }

  say(text, problem = false) {
    $('notice').hidden = !problem;
    $('notice').textContent = problem ? text : '';
    if (!problem) $('spoken').textContent = text;
  }
}
