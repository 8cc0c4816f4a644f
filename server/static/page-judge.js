// Judging again with the card's thresholds: the same numbers and the same comparison as the server's.

/** The verdict on a prediction at the card's `index`-th target acceptance. */
export function judge(prediction, card, index) {
  const threshold = card.fused.thresholds[index];
  return {
    isOod: prediction.ood_score > threshold,
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
