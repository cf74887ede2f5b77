'use strict';
/* A report of what was judged, as one file: pictures are drawn small, with heat maps and regions, and lie inside. */

const REPORT_SIDE = 480, REPORT_PICTURES = 300; // pixels of a picture's longer side, and how many images have one

const escaped = (text) => String(text).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

const load = (url) => new Promise((resolve) => {
  const picture = new Image();
  picture.onload = () => resolve(picture);
  picture.onerror = () => resolve(null);
  picture.src = url;
});

/* An image under its heat map and regions, as a data URL; null where the browser cannot show it. */
async function pictureOf(result) {
  const picture = await load(result.url);
  if (!picture) return null;
  const { row } = result, scale = Math.min(1, REPORT_SIDE / Math.max(row.width, row.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(row.width * scale));
  canvas.height = Math.max(1, Math.round(row.height * scale));
  const context = canvas.getContext('2d');
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const heat = row.heat && await load(row.heat);
  if (heat) context.drawImage(heat, 0, 0, canvas.width, canvas.height);
  if (verdictOf(result) === 'anomalous') {
    for (const [width, colour] of [[4, '#000'], [2, '#fff']]) {
      context.lineWidth = width;
      context.strokeStyle = colour;
      for (const [left, top, right, bottom] of boxesOf(result)) {
        context.strokeRect(left * scale, top * scale, (right - left) * scale, (bottom - top) * scale);
      }
    }
  }
  return canvas.toDataURL('image/jpeg', 0.85);
}

async function reportOf(judged) {
  const ranked = [...judged].sort((a, b) => b.row.image_score / b.row.threshold - a.row.image_score / a.row.threshold);
  const counts = { anomalous: 0, check: 0, good: 0 };
  for (const result of ranked) counts[verdictOf(result)] += 1;
  const cases = [];
  for (const [place, result] of ranked.entries()) {
    const picture = place < REPORT_PICTURES ? await pictureOf(result) : null;
    cases.push(caseOf(result, picture));
  }
  const style = (await Promise.all(['style.css', 'report.css'].map(async (name) =>
    (await fetch(`page/${name}`)).text()))).join('\n');
  const names = [...new Set(ranked.map(({ model, version }) => `${model}, version ${version}`))].map(escaped).join('; ');
  const summary = ['anomalous', 'check', 'good'].map((verdict) =>
    `<div><dt class="${verdict}">${WORDS[verdict]}</dt><dd>${counts[verdict]}</dd></div>`).join('');
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="softpatch">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Inspection report</title>
<style>${style}</style>
</head>
<body>
<header><h1>Inspection report</h1>
<p>${ranked.length} images, judged by ${names} at ${factor} times the model's threshold, until ${escaped(new Date().toLocaleString())}.</p>
</header>
<main><dl class="figures">${summary}</dl><h2>Images, the most anomalous first</h2><div class="cases">${cases.join('\n')}</div></main>
</body>
</html>
`;
}

function caseOf(result, picture) {
  const { row, name } = result, verdict = verdictOf(result);
  const times = (row.image_score / (factor * row.threshold)).toFixed(2);
  const shown = picture ? `<img src="${picture}" alt="The image ${escaped(name)} under its heat map">` : '';
  return `<div class="case">${shown}<p><bdi class="path">${escaped(name)}</bdi></p>
<p><span class="verdict ${verdict}">${WORDS[verdict]}</span> score ${row.image_score}, ${times} times the threshold</p></div>`;
}
