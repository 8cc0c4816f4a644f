// Images on their way to the server: a few at once, patient when it is full, stopped when it wants a key.

import { call, Problem } from './page-api.js';

const AT_ONCE = 3;
const TRIES = 8;
const KEPT = 200;

// Classes listed in an answer: a label set can be shown as far as they go.
export const LISTED = 20;

/** `limits` and `accept` give the current card's; `changed(item)` is told of every step, `denied()` of a missing key. */
export class Queue {
  constructor({ limits, accept, changed, dropped, denied }) {
    Object.assign(this, { limits, accept, changed, dropped, denied });
    this.items = [];
    this.running = 0;
    this.lanes = AT_ONCE;
    this.pausedUntil = 0;
    this.locked = false;
    this.next = 1;
  }

  /** Queue blobs, each with the name to show; the first of the new items. */
  add(blobs) {
    const added = blobs.map(({ blob, name }) => ({
      id: this.next++, name, blob, url: URL.createObjectURL(blob), state: 'waiting', tries: 0, answer: null, problem: null,
    }));
    for (const item of added) {
      const problem = this.refuse(item);
      if (problem) this.settle(item, 'failed', { problem });
    }
    this.items.push(...added);
    while (this.items.length > KEPT) this.drop(this.items.shift());
    added.forEach((item) => this.changed(item));
    this.pump();
    return added[0];
  }

  /** Why an image need not be sent at all. */
  refuse({ blob, name }) {
    const { image_bytes: image, body_bytes: body } = this.limits();
    const most = Math.min(image, body);
    if (blob.size > most) {
      const detail = `${name} has ${megabytes(blob.size)}; this server takes ${megabytes(most)} at most. It was not sent.`;
      return new Problem({ status: 413, title: 'Image too large', code: 'too_many_bytes', detail });
    }
    return blob.size ? null : new Problem({ status: 422, title: 'Empty file', code: 'empty', detail: `${name} holds nothing. It was not sent.` });
  }

  /** Send an image again once unlocked: its answer came from a model that was replaced. Not for ever. */
  postpone(item) {
    if (++item.tries < TRIES) {
      this.locked = true;
      this.settle(item, 'waiting', { answer: null });
    } else {
      const detail = 'The model changes too often: servers of different models may share this address.';
      this.settle(item, 'failed', { answer: null, problem: new Problem({ status: 503, title: 'Two models', detail }) });
    }
  }

  again(item) {
    item.tries = 0;
    this.settle(item, 'waiting', { problem: null });
    this.changed(item);
    this.pump();
  }

  clear() {
    this.items.splice(0).forEach((item) => this.drop(item));
  }

  drop(item) {
    item.gone?.abort();
    item.state = 'dropped';
    URL.revokeObjectURL(item.url);
    this.dropped(item);
  }

  /** A key was given: go on. */
  unlock() {
    this.locked = false;
    this.pump();
  }

  pump() {
    const wait = this.pausedUntil - performance.now();
    if (this.locked || wait > 0) return;
    for (const item of this.items) {
      if (this.running >= Math.floor(this.lanes)) return;
      if (item.state === 'waiting') this.send(item);
    }
  }

  async send(item) {
    this.running += 1;
    item.gone = new AbortController();
    this.settle(item, 'sending', { problem: null });
    this.changed(item);
    // The type is only a hint, and one that is no image's would be refused unseen.
    const type = item.blob.type.startsWith('image/') ? item.blob.type : 'application/octet-stream';
    try {
      const response = await call(`predict?accept=${this.accept()}&top_k=${LISTED}&explain=true`, {
        method: 'POST', body: item.blob, headers: { 'Content-Type': type }, signal: item.gone.signal,
      });
      this.settle(item, 'done', { answer: await response.json() });
      this.lanes = Math.min(AT_ONCE, this.lanes + 0.25);
    } catch (error) {
      this.failed(item, error instanceof Problem ? error : new Problem({ title: 'No answer', detail: String(error.message) }));
    }
    this.running -= 1;
    if (item.state !== 'dropped') this.changed(item);
    this.pump();
  }

  failed(item, problem) {
    if (problem.status === 401) {
      this.locked = true;
      this.settle(item, 'waiting', { problem });
      this.denied();
    } else if ((problem.status === 429 || (problem.status === 503 && problem.retryAfter)) && ++item.tries < TRIES) {
      this.lanes = Math.max(1, this.lanes - 1);
      const seconds = problem.retryAfter ?? 2 ** item.tries / 2;
      this.pausedUntil = Math.max(this.pausedUntil, performance.now() + 1000 * seconds);
      this.settle(item, 'waiting', { problem });
      setTimeout(() => this.pump(), 1000 * seconds + 20);
    } else {
      this.settle(item, 'failed', { problem });
    }
  }

  settle(item, state, more) {
    if (item.state !== 'dropped') Object.assign(item, { state }, more);
  }
}

const megabytes = (bytes) => (bytes >= 1e5 ? `${(bytes / 1048576).toFixed(1)} MB` : `${(bytes / 1024).toFixed(1)} kB`);
