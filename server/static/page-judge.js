// Judging again with the card's thresholds: the same numbers and the same comparison as the server's.

/** The verdict on a prediction at the card's `index`-th target acceptance. */
export function judge(prediction, card, index) {
  const threshold = card.fused.thresholds[index];
  const isOod = prediction.ood_score > threshold;
  return {
    isOod,
    isUnsure: !isOod && card.answers !== null && prediction.probability < card.answers.least_chances[index],
    labels: isOod || card.answers === null ? [] : labelSet(prediction.top_k, card.answers, index),
    score: prediction.ood_score,
    threshold,
    percentile: prediction.percentile,
    detectors: card.detectors.map((detector) => {
      const { value, percentile } = prediction.scores[detector.name];
      const limit = detector.thresholds[index];
      return { detector, value, percentile, threshold: limit, isOod: value > limit };
    }),
  };
}

/** The classes that hold the true one with the card's coverage, as far as they are listed; most likely first. */
export function labelSet(listed, answers, index) {
  const cut = answers.label_cuts[index] ?? Infinity;
  let total = 0;
  const over = listed.findIndex(({ probability }, place) => {
    total += probability;
    const value = answers.penalty === null
      ? 1 - probability : total + answers.penalty * Math.max(0, place + 1 - answers.free_classes);
    return value > cut;
  });
  return listed.slice(0, over < 0 ? listed.length : Math.max(1, over)).map(({ label }) => label);
}

/** Whether an answer was judged by the thresholds of this card; not after the model was replaced. */
export function fits(answer, card) {
  const index = card.accepts.indexOf(answer.accept);
  if (answer.model.name !== card.model.name || answer.model.version !== card.model.version || index < 0) return false;
  return answer.predictions.every(
    (found) => found.threshold === card.fused.thresholds[index]
      && card.detectors.every(({ name, thresholds }) => found.scores[name]?.threshold === thresholds[index]),
  );
}

/** How unusual a value is, in nats: the card's straight lines between knots, the last one going on. */
export function surprise(scale, value) {
  const { values, surprises } = scale;
  if (value < values[0]) return 0;
  let right = values.findIndex((knot) => knot >= value);
  if (right < 0) right = values.length - 1;
  if (right === 0) return surprises[0];
  const left = right - 1;
  const share = (value - values[left]) / (values[right] - values[left]);
  return surprises[left] + share * (surprises[right] - surprises[left]);
}

/** A surprise in words. What is rarer than one calibration image in all is not counted on. */
export function rarity(scale, value) {
  const oneIn = Math.exp(surprise(scale, value));
  if (oneIn < 2) return 'as usual';
  if (oneIn > scale.samples) return `fewer than 1 in ${scale.samples}`;
  return `1 in ${oneIn < 10 ? oneIn.toFixed(1).replace('.0', '') : Math.round(oneIn)}`;
}
