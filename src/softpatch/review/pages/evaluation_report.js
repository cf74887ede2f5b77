"use strict";
/* Counts anew what the threshold that is chosen makes of the test images, and shows which they are. */
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const slider = document.getElementById("slider");
  const exact = document.getElementById("exact");
  const reset = document.getElementById("reset");
  const count = (condition) => data.scores.reduce((sum, score, i) => sum + (condition(score, i) ? 1 : 0), 0);
  const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)}\u00a0%` : "–");
  const rounded = (value, digits = 4) => String(Number(value.toPrecision(digits)));

  function verdicts(threshold) {
    const atModel = threshold === data.threshold;
    const check = atModel ? data.check_threshold : (data.check_threshold / data.threshold || 1) * threshold;
    return (score) => (score > threshold ? "anomalous" : score > check ? "check" : "good");
  }

  function outcome(threshold) {
    const called = (score) => score > threshold;
    const found = count((score, i) => data.defective[i] && called(score));
    const missed = count((score, i) => data.defective[i] && !called(score));
    const falseAlarms = count((score, i) => !data.defective[i] && called(score));
    const verdict = verdicts(threshold);
    const result = {
      threshold: rounded(threshold),
      set: rounded(threshold, 7),
      missed,
      false_alarms: falseAlarms,
      precision: share(found, found + falseAlarms),
      recall: share(found, found + missed),
      f1: share(2 * found, 2 * found + falseAlarms + missed),
    };
    for (const name of ["good", "check", "anomalous"]) {
      result[`good_${name}`] = count((score, i) => !data.defective[i] && verdict(score) === name);
      result[`defective_${name}`] = count((score, i) => data.defective[i] && verdict(score) === name);
    }
    for (const kind of new Set(data.kinds)) {
      const images = count((_, i) => data.kinds[i] === kind);
      result[`kind_${kind}`] = count((score, i) => data.kinds[i] === kind && called(score));
      result[`kind_share_${kind}`] = share(result[`kind_${kind}`], images);
    }
    return result;
  }

  function moveMarks(threshold) {
    const low = data.threshold - data.below * data.step;
    const high = data.threshold + data.above * data.step;
    const place = Math.min(Math.max((100 * (threshold - low)) / (high - low), 0), 100);
    const found = count((score, i) => data.defective[i] && score > threshold);
    const called = count((score) => score > threshold);
    const defects = count((_, i) => data.defective[i]);
    const points = {
      roc: [(called - found) / (data.scores.length - defects), found / defects],
      precision_recall: [found / defects, called ? found / called : 1],
    };
    for (const mark of document.querySelectorAll("[data-mark]")) {
      mark.toggleAttribute("hidden", threshold === data.threshold);
      if (mark.dataset.mark === "histogram") {
        mark.style.left = `${place}%`;
      } else {
        const [x, y] = points[mark.dataset.mark];
        mark.setAttribute("cx", 100 * x);
        mark.setAttribute("cy", 100 - 100 * y);
      }
    }
  }

  function showCases(threshold, result) {
    for (const cases of document.querySelectorAll("[data-cases]")) {
      const isWrong = (score) => (cases.dataset.cases === "missed" ? score <= threshold : score > threshold);
      for (const card of cases.children) card.hidden = !isWrong(Number(card.dataset.score));
    }
    const verdict = verdicts(threshold);
    for (const card of document.querySelectorAll(".case")) {
      const score = Number(card.dataset.score);
      const badge = card.querySelector(".verdict");
      badge.textContent = verdict(score);
      badge.className = `verdict ${verdict(score)}`;
      const times = card.querySelector("[data-times]");
      if (times && threshold) times.textContent = (score / threshold).toFixed(2);
    }
    for (const none of document.querySelectorAll("[data-none]")) none.hidden = result[none.dataset.none] > 0;
  }

  function show(threshold) {
    const result = outcome(threshold);
    for (const place of document.querySelectorAll("[data-count]")) place.textContent = result[place.dataset.count];
    moveMarks(threshold);
    showCases(threshold, result);
    slider.value = data.below + Math.round((threshold - data.threshold) / data.step);
    slider.setAttribute("aria-valuetext", rounded(threshold));
    exact.value = threshold;
    reset.disabled = threshold === data.threshold;
    document.getElementById("apply").hidden = reset.disabled;
  }

  slider.addEventListener("input", () => {
    const step = Number(slider.value) - data.below;
    show(step ? data.threshold + step * data.step : data.threshold);
  });
  exact.addEventListener("change", () => {
    const threshold = Number.parseFloat(exact.value);
    show(threshold >= 0 ? threshold : data.threshold);
  });
  reset.addEventListener("click", () => {
    show(data.threshold);
    slider.focus();
  });
  for (const button of document.querySelectorAll("button[data-threshold]")) {
    button.hidden = false;
    button.addEventListener("click", () => show(Number(button.dataset.threshold)));
  }
  document.getElementById("controls").hidden = false;
  slider.setAttribute("aria-valuetext", rounded(data.threshold));
}
