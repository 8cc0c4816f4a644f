// Judge images in Node without oodguard, Python or a server: onnxruntime-node and a bundle with a standalone graph.
//
//   npm ci --ignore-scripts
//   node judge.mjs bundles/photos photos.rgb [accept]
//
// photos.rgb holds RGB pixels, of one image after another, in the size that the manifest says: `sharp` makes them, or
// `magick photo.jpg -resize 256x256^ -gravity center -extent 224x224 -depth 8 rgb:photos.rgb`. Prints one JSON object an
// image.

import { readFile } from "node:fs/promises";
import path from "node:path";
import * as ort from "onnxruntime-node";
import { judge, shapeOf } from "./verdict.mjs";

async function main(bundle, file, accept) {
  const manifest = JSON.parse(await readFile(path.join(bundle, "manifest.json"), "utf8"));
  if (!manifest.standalone) throw new Error(`${bundle} has no standalone graph: export it with --standalone`);
  const session = await ort.InferenceSession.create(path.join(bundle, manifest.standalone.graph), {
    logSeverityLevel: 3,
  });
  const shape = shapeOf(manifest);
  const [height, width] = shape;
  const pixels = new Uint8Array(await readFile(file));
  if (pixels.length === 0 || pixels.length % (height * width * 3)) {
    throw new Error(`${file} does not hold images of ${width} x ${height} RGB pixels`);
  }
  const wanted = accept === undefined ? undefined : Number(accept);
  for (const verdict of await judge(ort, session, pixels, { shape, classes: manifest.classes, accept: wanted })) {
    console.log(JSON.stringify(verdict));
  }
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
});
