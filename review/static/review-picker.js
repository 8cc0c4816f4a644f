// The dialog in which a person names a class: one of the model's, or a new one.

const $ = (id) => document.getElementById(id);

export class Picker {
  constructor() {
    this.dialog = $('picker');
    this.input = $('picker-name');
    this.list = $('picker-list');
    this.input.addEventListener('input', () => this.show(this.fresh ? -1 : 0));
    this.input.addEventListener('keydown', (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.choose(Math.max(0, Math.min(this.shown.length - 1, this.at + step)));
    });
    this.list.addEventListener('click', (event) => {
      const item = event.target.closest('li');
      if (item) { this.choose([...this.list.children].indexOf(item)); this.finish(); }
    });
    $('picker-form').addEventListener('submit', (event) => { event.preventDefault(); this.finish(); });
    $('picker-cancel').addEventListener('click', () => this.dialog.close());
  }

  // names: what to offer, the likeliest first. fresh: whether another name may be typed. done(name) may throw.
  open(title, names, fresh, done) {
    Object.assign(this, { names, fresh, done });
    $('picker-title').textContent = title;
    $('picker-error').textContent = '';
    this.input.value = '';
    this.show(fresh ? -1 : 0);
    this.dialog.showModal();
    this.input.focus();
  }

  show(at) {
    const typed = this.input.value.trim().toLowerCase();
    const begins = this.names.filter((name) => name.toLowerCase().startsWith(typed));
    const holds = this.names.filter((name) => !begins.includes(name) && name.toLowerCase().includes(typed));
    this.shown = [...begins, ...holds];
    this.list.replaceChildren(...this.shown.map((name, index) => {
      const item = document.createElement('li');
      item.id = `picker-${index}`;
      item.role = 'option';
      item.textContent = name;
      return item;
    }));
    this.choose(Math.min(at, this.shown.length - 1));
  }

  choose(at) {
    this.at = at;
    [...this.list.children].forEach((item, index) => item.setAttribute('aria-selected', String(index === at)));
    if (at >= 0) {
      this.input.setAttribute('aria-activedescendant', `picker-${at}`);
      this.list.children[at].scrollIntoView({ block: 'nearest' });
    } else this.input.removeAttribute('aria-activedescendant');
  }

  async finish() {
    const name = this.at >= 0 ? this.shown[this.at] : this.fresh ? this.input.value.trim() : '';
    try {
      if (!name) throw new Error(this.fresh ? 'Type a name for the class.' : 'The model has no such class; press Esc, then N for a new one.');
      await this.done(name);
      this.dialog.close();
    } catch (error) {
      $('picker-error').textContent = error.message;
    }
  }
}
