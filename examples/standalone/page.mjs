// The page: a bundle's standalone graph in onnxruntime-web. Nothing is sent anywhere.
//
// index.html?bundle=URL names the bundle's folder (default: bundle/); &device=webgpu takes the GPU.

import { judge, shapeOf } from "./verdict.mjs";

const query = new URLSearchParams(location.search);
const bundle = new URL(query.get("bundle") ?? "bundle/", location.href);
const device = query.get("device") === "webgpu" ? "webgpu" : "wasm";
const ort = await import(`./node_modules/onnxruntime-web/dist/ort.${device}.bundle.min.mjs`);
const [state, files, slider, chosen, results] = ["state", "files", "accept", "chosen", "results"].map((id) =>
  document.getElementById(id),
);
const shown = [];

// More threads need a page that is isolated from other origins: headers that a plain file server does not send.
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

async function load() {
  const manifest = await (await fetch(new URL("manifest.json", bundle))).json();
  if (!manifest.standalone) throw new Error("the bundle has no standalone graph: export it with --standalone");
  const graph = await (await fetch(new URL(manifest.standalone.graph, bundle))).arrayBuffer();
  const session = await ort.InferenceSession.create(graph, { executionProviders: [device], logSeverityLevel: 3 });
  return { manifest, session };
}

/**
 * The pixels of an image: upright, cropped, squashed or padded as the bundle's `preprocessing` says, alpha over white.
 *
 * A canvas resizes in its own way, not as Pillow's bicubic filter does, so scores move a little. Where that matters, send
 * images whose short side already is what the manifest says.
 */
function pixelsOf(image, manifest) {
  const { resize, resize_width, fit, fill } = manifest.preprocessing;
  const [height, width] = shapeOf(manifest);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  // Where the picture's own sides come to lie; what is beyond the canvas is cut off.
  let [w, h] = [resize_width ?? (width * resize) / height, resize];
  if (fit !== "squash") {
    const scales = [w / image.width, h / image.height];
    const scale = fit === "pad" ? Math.min(...scales) : Math.max(...scales);
    [w, h] = [Math.max(1, image.width * scale), Math.max(1, image.height * scale)];
  }
  const place = [(width - w) / 2, (height - h) / 2, w, h];
  context.fillStyle = `rgb(${fill.join()})`;
  context.fillRect(0, 0, width, height);
  context.fillStyle = "white";
  context.fillRect(...place);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, ...place);
  const rgba = context.getImageData(0, 0, width, height).data;
  return Uint8Array.from({ length: width * height * 3 }, (_, i) => rgba[4 * Math.floor(i / 3) + (i % 3)]);
}

/** Verdicts on pixels as they are; what a program calls. */
async function judgePixels(pixels, accept) {
  const { manifest, session } = await guard;
  return judge(ort, session, pixels, { shape: shapeOf(manifest), classes: manifest.classes, accept });
}

/** Whether an image is flagged where the graph's optional input is fed, which this runtime refuses. */
async function feed(pixels, accept) {
  const { manifest, session } = await guard;
  const images = new ort.Tensor("uint8", pixels, [1, ...shapeOf(manifest)]);
  const { is_ood } = await session.run({ images, accept: new ort.Tensor("float32", [accept], [1]) });
  return is_ood.data[0] === 1;
}

/** The verdict on an encoded image, through the canvas. */
async function judgeImage(blob, accept) {
  const { manifest } = await guard;
  const image = await createImageBitmap(blob, { imageOrientation: "from-image" });
  const [verdict] = await judgePixels(pixelsOf(image, manifest), accept);
  image.close();
  return verdict;
}

function show() {
  const accept = Number(slider.value);
  chosen.textContent = slider.value;
  results.replaceChildren(
    ...shown.map(({ name, verdict, problem }) => {
      const item = document.createElement("li");
      if (problem) item.textContent = `${name}: ${problem}`;
      else {
        const out = verdict.percentile >= 100 * accept - 0.001;
        item.dataset.ood = out;
        item.textContent = out
          ? `${name}: out of distribution (percentile ${verdict.percentile.toFixed(1)})`
          : `${name}: ${verdict.label} (${Math.round(100 * verdict.probability)} %)`;
      }
      return item;
    }),
  );
}

files.addEventListener("change", async () => {
  for (const file of files.files) {
    try {
      shown.unshift({ name: file.name, verdict: await judgeImage(file) });
    } catch (error) {
      shown.unshift({ name: file.name, problem: `cannot be judged (${error.message})` });
    }
    show();
  }
});
slider.addEventListener("input", show);

const guard = load();
globalThis.guard = { judgePixels, judgeImage, feed };
try {
  const { manifest } = await guard;
  slider.value = manifest.targets.accept;
  show();
  state.textContent = `${manifest.name}, version ${manifest.version}, on ${device}.`;
  files.disabled = false;
} catch (error) {
  state.textContent = `The guard cannot be loaded: ${error.message}`;
}
