// Reads the OpenAPI document and lets you try /predict. A key that the page kept in this tab is used here too.

const $ = (id) => document.getElementById(id);
let key = '';
try { key = sessionStorage.getItem('oodguard-key') || ''; } catch { /* storage is switched off */ }

const headers = () => (key ? { 'X-API-Key': key } : {});

function add(parent, tag, text, className) {
  const node = document.createElement(tag);
  if (text != null) node.textContent = text;
  if (className) node.className = className;
  parent.append(node);
  return node;
}

async function load() {
  const response = await fetch('openapi.json', { headers: headers() });
  $('key-form').hidden = response.status !== 401;
  if (!response.ok) {
    $('about').textContent = response.status === 401 ? '' : `openapi.json: error ${response.status}`;
    return;
  }
  show(await response.json());
}

function show(document_) {
  const about = $('about');
  about.textContent = `${document_.info.description} Version ${document_.info.version}. Machine-readable: `;
  add(about, 'a', 'openapi.json').href = 'openapi.json';
  $('paths').replaceChildren();
  for (const [path, verbs] of Object.entries(document_.paths)) {
    for (const [verb, operation] of Object.entries(verbs)) describe(path, verb, operation);
  }
}

function describe(path, verb, operation) {
  const section = add($('paths'), 'section');
  const head = add(section, 'h2');
  add(head, 'span', verb.toUpperCase(), 'verb');
  add(head, 'code', path);
  add(section, 'p', operation.description || operation.summary || '');
  const table = add(section, 'table');
  const row = (name, text) => {
    const line = add(table, 'tr');
    add(add(line, 'td'), 'code', name);
    add(line, 'td', text);
  };
  for (const one of operation.parameters || []) row((one.in === 'query' ? '?' : '') + one.name, one.description || '');
  for (const kind of Object.keys(operation.requestBody?.content || {})) row('body', kind);
  for (const [code, said] of Object.entries(operation.responses || {})) row(code, said.description);
}

$('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  key = $('key').value.trim();
  load();
});

$('try').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const accept = form.get('accept');
  form.delete('accept');
  const answer = $('answer');
  answer.hidden = false;
  answer.textContent = '...';
  try {
    const query = accept ? `?accept=${encodeURIComponent(accept)}` : '';
    const response = await fetch(`predict${query}`, { method: 'POST', body: form, headers: headers() });
    answer.textContent = `${response.status}\n${JSON.stringify(await response.json(), null, 2)}`;
  } catch (error) {
    answer.textContent = String(error);
  }
});

load();
