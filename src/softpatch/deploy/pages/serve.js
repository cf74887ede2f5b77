'use strict';
/* Sends images to the server that this page comes from, and shows what it says of them. The threshold is moved here. */

const AT_ONCE = 3, TRIES = 5, LOOK_AGAIN = 60_000; // the last in milliseconds
const byId = (id) => document.getElementById(id);
const results = []; // { name, url, model, row or error, card }
const queue = [];
let working = 0, factor = 1, token = '', tokenAsked = null;

const say = (text) => { byId('message').textContent = text; };
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/* Ask the server; where it needs a token, ask the person first. */
async function ask(path, options = {}) {
  for (;;) {
    const headers = token ? { ...options.headers, Authorization: `Bearer ${token}` } : options.headers;
    const response = await fetch(path, { ...options, headers });
    if (response.status !== 401) return response;
    await askForToken();
  }
}

function askForToken() {
  tokenAsked ??= new Promise((resolve) => {
    if (token) say('That is not the token of this server.');
    const form = byId('token-form');
    form.hidden = false;
    byId('token').focus();
    form.onsubmit = (event) => {
      event.preventDefault();
      token = byId('token').value.trim();
      byId('token').value = '';
      form.hidden = true;
      say('');
      tokenAsked = null;
      resolve();
    };
  });
  return tokenAsked;
}

async function listModels() {
  try {
    const { models } = await (await ask('v1/models')).json();
    const options = models.flatMap(({ name, versions }) => [...versions].reverse().map((version) => make('option',
      { 'data-model': name, 'data-version': version }, versions.length > 1 ? `${name}, version ${version}` : name)));
    byId('model').replaceChildren(...options);
    if (!models.length) say('This server has no model now.');
    await showDrift();
  } catch (error) {
    say(`The models cannot be listed: ${error.message}.`);
  }
}

/* Whether the images that the model judged have changed; those of this page do not count. */
async function showDrift() {
  const option = byId('model').selectedOptions[0];
  if (!option) return;
  const query = new URLSearchParams({ version: option.dataset.version });
  try {
    const response = await ask(`v1/models/${encodeURIComponent(option.dataset.model)}/drift?${query}`);
    const alarm = response.ok ? (await response.json()).drift?.alarm : null;
    if (option.selected) byId('drift').textContent = alarm ? `Note: ${alarm.sentence}.` : '';
  } catch { /* asked again in a minute */ }
}

function judgeAll(files) {
  const option = byId('model').selectedOptions[0];
  if (!option) return say('Choose a model first.');
  say('');
  byId('results').hidden = false;
  for (const { file, name } of files) {
    const result = { file, name, url: URL.createObjectURL(file), ...option.dataset };
    results.push(result);
    queue.push(result);
    result.card = card(result);
    byId('cases').append(result.card);
  }
  refresh();
  while (working < AT_ONCE && queue.length) work();
}

async function work() {
  working += 1;
  while (queue.length) {
    const result = queue.shift();
    await judge(result);
    if (result.isCleared) continue;
    draw(result);
    refreshCard(result);
    refreshCounts();
  }
  working -= 1;
}

async function judge(result) {
  const query = new URLSearchParams({ version: result.version, details: 'true', drift: 'false' });
  const path = `v1/models/${encodeURIComponent(result.model)}/predict?${query}`;
  const headers = { Accept: 'application/json', 'Content-Type': 'application/octet-stream' };
  try {
    for (let tries = 1; ; tries += 1) {
      const response = await ask(path, { method: 'POST', headers, body: result.file });
      const answer = await response.json();
      if (response.ok) {
        result.row = { ...answer.images[0], path: result.name };
        return;
      }
      const again = Number(response.headers.get('Retry-After'));
      if (!again || tries === TRIES) throw new Error(answer.error);
      await pause(again);
    }
  } catch (error) {
    result.error = error.message;
  }
}

function verdictOf({ row, error }) {
  if (error) return 'error';
  if (!row) return 'waiting';
  if (row.image_score > factor * row.threshold) return 'anomalous';
  return row.image_score > factor * row.check_threshold ? 'check' : 'good';
}

const WORDS = { anomalous: 'anomalous', check: 'to check', good: 'good', error: 'not judged', waiting: 'waiting' };

function card(result) {
  const picture = make('img', { src: result.url, alt: `The image ${result.name}`, loading: 'lazy', decoding: 'async' });
  picture.addEventListener('error', () => picture.replaceWith(
    make('p', { class: 'quiet' }, 'This browser does not show images of this kind.')));
  return make('article', { class: 'case' },
    make('div', { class: 'layers' }, picture), make('h2', {}, make('bdi', {}, result.name)),
    make('p', { class: 'said' }));
}

/* What an answer adds to a card. */
function draw({ card: element, row }) {
  if (!row) return;
  const layers = element.querySelector('.layers');
  if (row.heat) layers.append(make('img', { class: 'heat', src: row.heat, alt: 'Heat map' }));
  layers.append(makeDrawing('svg', { viewBox: `0 0 ${row.width} ${row.height}`, preserveAspectRatio: 'none',
    'aria-hidden': 'true' }));
}

/* The boxes that an image has at the threshold: those above it, or a cross at the place of the score. */
function boxesOf({ row }) {
  return row.regions.filter((region) => region.peak > factor * row.map_threshold).map((region) => region.box);
}

function crossOf({ row }) {
  const arm = Math.max(row.width, row.height) / 30, { peak_x: x, peak_y: y } = row;
  return `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}`;
}

function drawBoxes(result, verdict) {
  const shapes = [];
  if (verdict === 'anomalous') {
    const boxes = boxesOf(result);
    for (const [x, y, right, bottom] of boxes) shapes.push(['rect', { x, y, width: right - x, height: bottom - y }]);
    if (!boxes.length) shapes.push(['path', { d: crossOf(result) }]);
  }
  result.card.querySelector('svg').replaceChildren(...shapes.flatMap(([tag, attributes]) => [
    makeDrawing(tag, { ...attributes, class: 'rim' }), makeDrawing(tag, attributes)]));
}

/* What of a card depends on the threshold, or has come. */
function refreshCard(result) {
  const verdict = verdictOf(result), shown = byId('show').value;
  result.card.hidden = shown !== 'all' && shown !== verdict;
  result.card.dataset.verdict = verdict;
  const said = [make('span', { class: `verdict ${verdict}` }, WORDS[verdict])];
  if (result.row) {
    drawBoxes(result, verdict);
    const times = result.row.image_score / (factor * result.row.threshold);
    said.push(` score ${result.row.image_score.toPrecision(4)}, ${times.toFixed(2)} times the threshold`);
    if (result.row.is_unlike_training) said.push('; unlike anything learned');
  } else if (result.error) said.push(` ${result.error}`);
  result.card.querySelector('.said').replaceChildren(...said);
}

function refreshCounts() {
  const counts = { anomalous: 0, check: 0, good: 0, error: 0, waiting: 0 };
  for (const result of results) counts[verdictOf(result)] += 1;
  for (const [name, count] of Object.entries(counts)) document.querySelector(`[data-count=${name}]`).textContent = count;
}

function refresh() {
  for (const result of results) refreshCard(result);
  refreshCounts();
}

function moveThreshold(value) {
  if (!(value > 0)) return;
  factor = value;
  byId('factor').value = value; // as near as the slider goes
  byId('exact').value = value;
  refresh();
}

const CELLS = ['path', 'model', 'version', 'image_score', 'threshold', 'margin', 'verdict', 'peak_x', 'peak_y', 'box_left',
  'box_top', 'box_right', 'box_bottom', 'width', 'height', 'is_unlike_training', 'error'];

/* A table of all that was judged, at the threshold that is set; no cell begins as a formula would. */
function asCsv() {
  const lines = results.filter(({ row, error }) => row || error).map((result) => {
    const { row = {}, name, model, version, error } = result;
    const threshold = factor * row.threshold;
    const moved = row.threshold === undefined ? {} : { threshold: Number(threshold.toPrecision(7)),
      margin: Number((row.image_score / threshold).toFixed(4)), verdict: verdictOf(result) };
    const values = { ...row, ...moved, path: name, model, version, error };
    return CELLS.map((cell) => cellOf(values[cell])).join(',');
  });
  return [CELLS.join(','), ...lines, ''].join('\r\n');
}

function cellOf(value) {
  if (value === undefined || value === null) return '';
  const text = typeof value === 'string' && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function download(name, text, type) {
  const link = make('a', { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function clearAll() {
  queue.length = 0;
  for (const result of results) {
    result.isCleared = true;
    URL.revokeObjectURL(result.url);
  }
  results.length = 0;
  byId('cases').replaceChildren();
  byId('results').hidden = true;
}

/* All files below what was dropped, with their paths. */
async function filesOf(entry, path = '') {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
    return [{ file, name: path + file.name }];
  }
  const reader = entry.createReader(), found = [];
  for (;;) { // a reader gives a hundred at a time
    const entries = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!entries.length) break;
    for (const each of entries) found.push(...await filesOf(each, `${path}${entry.name}/`));
  }
  return found;
}

async function dropped(event) {
  event.preventDefault();
  byId('drop').classList.remove('over');
  const items = [...event.dataTransfer.items].filter(({ kind }) => kind === 'file');
  const found = items.map((item) => item.webkitGetAsEntry() ?? item.getAsFile()); // at once: items do not last
  const files = (await Promise.all(found.map((each) =>
    (each instanceof File ? [{ file: each, name: each.name }] : filesOf(each))))).flat();
  judgeAll(files.filter(({ name }) => !/(^|\/)\./.test(name)));
}

function chosen(event) {
  judgeAll([...event.target.files].map((file) => ({ file, name: file.webkitRelativePath || file.name })));
  event.target.value = '';
}

let shots = 0;
async function openCamera() {
  if (!navigator.mediaDevices) return say('Browsers let pages use a camera only over HTTPS, or on this computer itself.');
  try {
    const video = { facingMode: 'environment', width: { ideal: 1920 } };
    byId('video').srcObject = await navigator.mediaDevices.getUserMedia({ video });
    byId('camera-view').hidden = false;
    await byId('video').play();
    byId('shoot').focus();
  } catch (error) {
    say(`The camera cannot be used: ${error.message}.`);
  }
}

function closeCamera() {
  byId('video').srcObject?.getTracks().forEach((track) => track.stop());
  byId('video').srcObject = null;
  byId('camera-view').hidden = true;
}

function takePicture() {
  const video = byId('video'), canvas = make('canvas', { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext('2d').drawImage(video, 0, 0);
  shots += 1;
  canvas.toBlob((file) => judgeAll([{ file, name: `camera-${String(shots).padStart(3, '0')}.png` }]), 'image/png');
}

byId('choose').addEventListener('click', () => byId('files').click());
byId('choose-folder').addEventListener('click', () => byId('folder').click());
byId('files').addEventListener('change', chosen);
byId('folder').addEventListener('change', chosen);
byId('camera').addEventListener('click', openCamera);
byId('camera-off').addEventListener('click', closeCamera);
byId('shoot').addEventListener('click', takePicture);
byId('factor').addEventListener('input', (event) => moveThreshold(Number(event.target.value)));
byId('exact').addEventListener('change', (event) => moveThreshold(Number(event.target.value)));
byId('reset').addEventListener('click', () => moveThreshold(1));
byId('show').addEventListener('change', refresh);
byId('heat').addEventListener('change', (event) => byId('cases').classList.toggle('no-heat', !event.target.checked));
byId('boxes').addEventListener('change', (event) => byId('cases').classList.toggle('no-boxes', !event.target.checked));
byId('opacity').addEventListener('input', (event) => byId('cases').style.setProperty('--heat', event.target.value));
byId('csv').addEventListener('click', () => download('predictions.csv', asCsv(), 'text/csv'));
byId('report').addEventListener('click', async () => {
  byId('report').disabled = true;
  download('report.html', await reportOf(results.filter(({ row }) => row)), 'text/html');
  byId('report').disabled = false;
});
byId('clear').addEventListener('click', clearAll);
document.addEventListener('dragover', (event) => { event.preventDefault(); byId('drop').classList.add('over'); });
document.addEventListener('dragleave', () => byId('drop').classList.remove('over'));
document.addEventListener('drop', dropped);
byId('model').addEventListener('change', showDrift);
setInterval(showDrift, LOOK_AGAIN);
listModels();
