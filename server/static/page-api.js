// Requests to the server, with the key when there is one, and every failure as one kind of error.

const KEPT = 'oodguard-key';
let key = read();

function read() {
  try { return sessionStorage.getItem(KEPT) || ''; } catch { return ''; }
}

export const hasKey = () => key !== '';

/** Use a key; only when `keep` is set does it outlive the page, and only in this tab. */
export function useKey(value, keep) {
  key = value;
  try {
    if (keep && value) sessionStorage.setItem(KEPT, value);
    else sessionStorage.removeItem(KEPT);
  } catch { /* storage is switched off: the key lives in memory alone */ }
}

/** What a problem document says; `retryAfter` in seconds, `status` 0 when nobody answered. */
export class Problem extends Error {
  constructor({ status = 0, title = 'Failed', detail = '', code = '' }, retryAfter = null) {
    super(detail || title);
    Object.assign(this, { status, title, detail, code, retryAfter });
  }
}

// What a proxy means with a status of its own.
const PROXY = {
  403: 'refuses the request: check its access rules',
  408: 'got the image too slowly: raise its body timeout',
  413: 'does not take this much data: raise its body limit',
  429: 'lets fewer requests through: send them more slowly',
  502: 'got no answer from it: check that the server runs where the proxy looks for it',
  503: 'has no server to ask: check that one is ready',
  504: 'waited in vain: raise its timeout',
};

/** Fetch from this server. Throws `Problem` for every answer that is not a success, and for none. */
export async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key) headers.set('X-API-Key', key);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Problem({ title: 'No answer', code: 'offline', detail: 'The server cannot be reached.' });
  }
  if (response.ok) return response;
  let said = null;
  try { said = await response.json(); } catch { /* not from oodguard: a proxy's error page */ }
  if (!said?.code) said = { detail: `A proxy in front of the server ${PROXY[response.status] || 'answered in its place'}.` };
  const after = Number.parseFloat(response.headers.get('Retry-After'));
  throw new Problem(
    { title: said.title || `Error ${response.status}`, detail: said.detail || '', code: said.code || '', status: response.status },
    Number.isFinite(after) ? after : null,
  );
}
