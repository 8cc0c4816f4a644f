// What a standalone graph's outputs mean: for the page, for Node, for anything else that runs JavaScript.

/**
 * One verdict an image, of the outputs of one batch.
 *
 * accept: the target acceptance; without one, the bundle's own. The graph has an optional input of that name, which
 * onnxruntime-web refuses and onnxruntime-node ignores, so the percentile is compared here: the same rule.
 */
export function verdicts(outputs, classes, accept) {
  const { label, probability, is_ood, ood_score, percentile } = outputs;
  return Array.from(probability.data, (value, i) => ({
    // Labels are BigInts, which neither index an array nor survive JSON.
    label: classes[Number(label.data[i])],
    probability: value,
    is_ood: accept === undefined ? is_ood.data[i] === 1 : percentile.data[i] >= 100 * accept - 0.001,
    ood_score: ood_score.data[i],
    percentile: percentile.data[i],
  }));
}

/** The shape of one image that the graph takes: height, width, channels. */
export const shapeOf = ({ preprocessing: { crop, width } }) => [crop, width ?? crop, 3];

/** Run a session on RGB pixels, images of `shape` one after another, as many at a time as `batch` says. */
export async function judge(ort, session, pixels, { shape, classes, accept, batch = 16 }) {
  const size = shape.reduce((product, length) => product * length);
  const found = [];
  for (let start = 0; start < pixels.length; start += batch * size) {
    const part = pixels.subarray(start, start + batch * size);
    const images = new ort.Tensor("uint8", part, [part.length / size, ...shape]);
    found.push(...verdicts(await session.run({ images }), classes, accept));
  }
  return found;
}
