// Ask a server about images with fetch: in Node 18 or later, or `judge` alone in a browser (or Deno, or a worker).
//
//   node predict.mjs http://localhost:8000 photo.jpg other.jpg
//
// A page from another origin needs a proxy: the server sends no CORS headers.

/** The answer for images, each a Blob with a name. Throws an Error whose `problem` is the server's problem document. */
export async function judge(url, images, { key, accept } = {}) {
  const form = new FormData();
  for (const { name, blob } of images) form.append("image", blob, name);
  const query = accept === undefined ? "" : `?accept=${accept}`;
  const request = { method: "POST", body: form, headers: key ? { "X-API-Key": key } : {} };
  let response = await fetch(`${url}/predict${query}`, request);
  if (response.status === 429 || response.status === 503) {
    // It is full or starting, and says when to come back. Asking again changes nothing on the server.
    const seconds = Number(response.headers.get("Retry-After") ?? 1);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    response = await fetch(`${url}/predict${query}`, request);
  }
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(`${answer.title}: ${answer.detail}`), { problem: answer });
  return answer;
}

async function main(url, names) {
  const { readFile } = await import("node:fs/promises");
  const images = await Promise.all(names.map(async (name) => ({ name, blob: new Blob([await readFile(name)]) })));
  const answer = await judge(url, images, { key: process.env.OODGUARD_KEY });
  for (const found of answer.predictions) {
    const verdict = found.is_ood ? "out of distribution" : found.label;
    console.log(`${found.file}: ${verdict} (${found.ood_score.toFixed(2)}, threshold ${found.threshold.toFixed(2)})`);
  }
  for (const problem of answer.errors) console.error(`${problem.file}: ${problem.detail}`);
}

if (globalThis.process?.argv[1]?.endsWith("predict.mjs")) {
  main(process.argv[2], process.argv.slice(3)).catch((error) => {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  });
}
