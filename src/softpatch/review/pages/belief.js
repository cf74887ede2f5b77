'use strict';
/* What is believed of the images, computed as `believe` and `next_question` do in Python. */

function probability(evidence, centre, slope) {
  const logit = Math.min(30, Math.max(-30, slope * (evidence - centre)));
  return 1 / (1 + Math.exp(-logit));
}

/* Combine the evidence (N) with answers: a Map of images' numbers to whether each is anomalous. */
function believe(evidence, hypotheses, answers) {
  const { centres, slopes, weights: priors } = hypotheses;
  const logs = priors.map((prior, k) => {
    let log = Math.log(prior);
    for (const [number, isAnomalous] of answers) {
      const p = probability(evidence[number], centres[k], slopes[k]);
      log += Math.log(isAnomalous ? p : 1 - p);
    }
    return log;
  });
  const highest = Math.max(...logs);
  const likelihoods = logs.map((log) => Math.exp(log - highest));
  const total = likelihoods.reduce((sum, each) => sum + each, 0);
  const weights = likelihoods.map((each) => each / total);

  const suspicion = new Float64Array(evidence.length);
  const shares = [], variances = [];
  weights.forEach((weight, k) => {
    let share = 0, variance = 0;
    for (let number = 0; number < evidence.length; number += 1) {
      const p = answers.has(number) ? Number(answers.get(number)) : probability(evidence[number], centres[k], slopes[k]);
      suspicion[number] += weight * p;
      share += p / evidence.length;
      variance += p * (1 - p) / evidence.length ** 2;
    }
    shares.push(share);
    variances.push(variance);
  });
  const contamination = weights.reduce((sum, weight, k) => sum + weight * shares[k], 0);
  const variance = weights.reduce((sum, weight, k) => sum + weight * ((shares[k] - contamination) ** 2 + variances[k]), 0);
  const reach = 1.645 * Math.sqrt(variance);
  return { suspicion, contamination, low: Math.max(0, contamination - reach), high: Math.min(1, contamination + reach) };
}

/* The number of the image not asked about yet whose answer is least foreseen, the first of several; or null. */
function nextQuestion(suspicion, asked) {
  let best = null;
  suspicion.forEach((each, number) => {
    if (asked.has(number)) return;
    if (best === null || Math.abs(each - 0.5) < Math.abs(suspicion[best] - 0.5)) best = number;
  });
  return best;
}
