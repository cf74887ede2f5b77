'use strict';
/* The page of an audit: answers, what follows from them, and what keys and buttons do. */

const VERBS = { keep: 'Keep', reject: 'Reject', unsure: 'Unsure' };
const DONE = { keep: 'Kept', reject: 'Rejected', unsure: 'Unsure of' };
const OPEN = [0.1, 0.9]; // between them an answer still teaches something
const QUESTIONS = 30, LEAST_OPEN = 5; // as many as a person may want to answer
const LARGEST_FILE = 50e6; // bytes, of a file of decisions

const data = JSON.parse(document.getElementById('data').textContent);
const { images, groups, hypotheses } = data;
const storageKey = `softpatch-audit-${data.id}`;
const evidence = images.map((image) => image.evidence);
const byId = (id) => document.getElementById(id);
const detail = byId('detail'), keys = byId('keys');

const decisions = new Map(); // numbers of images to decisions
const steps = []; // what to take back: arrays of [number, the decision before]
let belief = null;
let items = []; // what the gallery shows, in order: { number, group }
let sections = [];
let current = 0; // position in items
let isStored = true; // whether the browser keeps answers
let isSaved = true;

/* Answers */

function decide(numbers, decision) {
  apply(numbers.map((number) => [number, decision]));
  const whom = numbers.length === 1 ? images[numbers[0]].path : `${numbers.length} images`;
  say(decision ? `${DONE[decision]} ${whom}` : `Took back the answer to ${whom}`);
}

/* Pressing the answer that an image has takes it back. */
function toggle(number, decision) {
  decide([number], decisions.get(number) === decision ? null : decision);
}

function apply(changes) {
  steps.push(changes.map(([number]) => [number, decisions.get(number) ?? null]));
  put(changes);
}

function undo() {
  const step = steps.pop();
  if (!step) return;
  put(step);
  say(step.length === 1 ? `Took back the answer to ${images[step[0][0]].path}` : `Took back ${step.length} answers`);
  if (step.length === 1) goToImage(step[0][0]);
}

function put(changes) {
  for (const [number, decision] of changes) {
    if (decision) decisions.set(number, decision);
    else decisions.delete(number);
  }
  isSaved = false;
  store();
  update();
}

function decideGroup(group, decision) {
  decide(groups[group].images, decision);
}

/* What is believed, and the page, after answers. */
function update() {
  const answers = new Map([...decisions].filter(([, decision]) => decision !== 'unsure')
    .map(([number, decision]) => [number, decision === 'reject']));
  belief = believe(evidence, hypotheses, answers);
  const left = images.filter((_, number) => !decisions.has(number)
    && belief.suspicion[number] > OPEN[0] && belief.suspicion[number] < OPEN[1]).length;
  const open = Math.min(left, Math.max(LEAST_OPEN, QUESTIONS - decisions.size));
  byId('contamination').textContent = contaminationText();
  byId('progress').textContent = open
    ? `${decisions.size} of about ${decisions.size + open} questions answered; next: the image whose answer would teach most.`
    : `${decisions.size} answered; no answer left would teach much.`;
  byId('answered').value = decisions.size / Math.max(1, decisions.size + open);
  byId('undo').disabled = !steps.length;
  byId('save').disabled = !decisions.size;
  byId('next').disabled = byId('detail-next').disabled = decisions.size === images.length;
  if (['unanswered', ...DECISIONS].includes(byId('filter').value)) arrange();
  else refreshCards();
  if (detail.open) drawDetail();
}

function say(text) {
  byId('said').textContent = text;
}

/* What the gallery shows */

function isWanted(number) {
  const filter = byId('filter').value;
  const decision = decisions.get(number);
  const words = byId('search').value.trim().toLowerCase();
  if (words && !images[number].path.toLowerCase().includes(words)) return false;
  if (filter === 'unanswered') return !decision;
  if (filter.startsWith('group:')) return groupsOf(number).some((group) => `group:${groups[group].kind}` === filter);
  return filter === 'all' || decision === filter;
}

function groupsOf(number) {
  return [...groups.keys()].filter((group) => membersOf[group].has(number));
}

const membersOf = groups.map((group) => new Set(group.images));

/* Choose, order and lay out what is shown; the current image stays so where it is still shown. */
function arrange() {
  const before = items[current];
  const order = byId('order').value;
  const wanted = [...images.keys()].filter(isWanted);
  if (order === 'path') {
    const { compare } = new Intl.Collator('en', { numeric: true });
    wanted.sort((a, b) => compare(images[a].path, images[b].path));
  }
  items = [];
  sections = [];
  const add = (group, title, said, numbers) => {
    if (!numbers.length) return;
    const first = items.length;
    items.push(...numbers.map((number) => ({ number, group })));
    sections.push({ group, title, evidence: said, first, last: items.length });
  };
  if (order === 'group') {
    const isShown = new Set(wanted);
    groups.forEach((group, place) => add(place, group.title, group.evidence, group.images.filter((each) => isShown.has(each))));
    add(null, 'In no group', 'The most suspicious come first.', wanted.filter((number) => !groupsOf(number).length));
  } else {
    add(null, null, null, wanted);
  }
  byId('shown').textContent = wanted.length === images.length ? '' : `${wanted.length} of ${images.length} images shown.`;
  const same = items.findIndex((item) => before && item.number === before.number && item.group === before.group);
  current = same >= 0 ? same : Math.max(0, Math.min(current, items.length - 1));
  layOut(sections);
}

function select(position) {
  current = Math.max(0, Math.min(position, items.length - 1));
  refreshCards();
}

function go(position) {
  if (!items.length) return;
  select(position);
  scrollToCard(current);
  if (detail.open) drawDetail();
  else gallery.querySelector('.card.current').focus({ preventScroll: true });
}

function goToImage(number) {
  let position = items.findIndex((item) => item.number === number);
  if (position < 0) {
    byId('filter').value = 'all';
    byId('search').value = '';
    arrange();
    position = items.findIndex((item) => item.number === number);
  }
  go(position);
}

function goToNextQuestion() {
  const number = nextQuestion(belief.suspicion, decisions);
  if (number !== null) goToImage(number);
}

/* The row above or below, where a card stands nearest to the same column; headings are passed over. */
function goByRow(step) {
  let row = rowOf(current);
  const column = current - rows[row].first;
  do row += step; while (rows[row]?.section);
  if (rows[row]) go(Math.min(rows[row].first + column, rows[row].last - 1));
}

/* Keeping answers, in this browser and in files */

function store() {
  try {
    localStorage.setItem(storageKey, JSON.stringify([...decisions]));
    isStored = true;
  } catch {
    isStored = false;
  }
  const warning = byId('warning');
  warning.hidden = isStored;
  warning.textContent = 'This browser keeps no answers for this page: they last until it is closed. Save them before.';
}

/* What was answered on this page before, or else what the audit was told. */
function restore() {
  for (const [number, decision] of answersStored() ?? images.map((image, number) => [number, image.decision])) {
    if (images[number] && DECISIONS.includes(decision)) decisions.set(number, decision);
  }
}

function answersStored() {
  try {
    const stored = JSON.parse(localStorage.getItem(storageKey));
    return Array.isArray(stored) && stored.every(Array.isArray) ? stored : null;
  } catch {
    return null; // storage is denied, or holds what this page did not write
  }
}

function save() {
  const rowsOf = images.flatMap(({ key }, number) => (decisions.has(number) ? [[key, decisions.get(number)]] : []));
  const address = URL.createObjectURL(new Blob([decisionsAsCsv(rowsOf)], { type: 'text/csv' }));
  make('a', { href: address, download: 'decisions.csv' }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
  isSaved = true;
  say(`Saved ${rowsOf.length} decisions as decisions.csv`);
}

async function load(file) {
  try {
    if (file.size > LARGEST_FILE) throw new Error('it is larger than 50 MB');
    const found = decisionsOfCsv(await file.text());
    const changes = images.flatMap(({ key }, number) => (found.has(key) ? [[number, found.get(key)]] : []));
    if (!changes.length) throw new Error(`none of its ${found.size} paths is among these images`);
    apply(changes);
    const others = found.size - changes.length;
    say(`Loaded ${changes.length} decisions${others ? `; ${others} more are about images that are not here` : ''}`);
  } catch (error) {
    say(`Nothing was loaded from this file: ${error.message}.`);
  }
}

/* What keys and buttons do */

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
  if (event.target.closest('input, select, textarea')) {
    if (event.key === 'Escape' && event.target === byId('search')) go(current);
    return;
  }
  const action = actionOf(event);
  if (!action) return;
  event.preventDefault();
  action();
}

function actionOf(event) {
  const { key, shiftKey } = event;
  const moves = { ArrowLeft: () => go(current - 1), ArrowRight: () => go(current + 1) };
  if (!detail.open) {
    moves.ArrowUp = () => goByRow(-1);
    moves.ArrowDown = () => goByRow(1);
    moves.Home = () => go(0);
    moves.End = () => go(items.length - 1);
    if (event.target.matches('.card, body')) moves.Enter = openDetail;
  }
  if (items.length && Object.hasOwn(moves, key)) return moves[key];
  if (!byId('single-keys').checked) return null;
  const decision = { k: 'keep', r: 'reject', u: 'unsure' }[key.toLowerCase()];
  if (decision && items.length) {
    return shiftKey ? () => answerGroup(decision) : () => toggle(items[current].number, decision);
  }
  return { j: moves.ArrowRight, z: undo, n: goToNextQuestion, h: toggleHeat, '/': () => !detail.open && byId('search').focus(),
    '?': () => keys.showModal() }[key];
}

function answerGroup(decision) {
  const { number, group } = items[current];
  const chosen = group ?? groupsOf(number)[0];
  if (chosen === undefined) say(`${images[number].path} is in no group`);
  else decideGroup(chosen, decision);
}

function toggleHeat() {
  const isOn = document.body.classList.toggle('show-heat');
  for (const id of ['heat', 'detail-heat']) byId(id).setAttribute('aria-pressed', isOn);
}

function clickAnswer(event, number) {
  const button = event.target.closest('button[data-decision]');
  if (!button) return;
  const group = button.closest('[data-group]');
  if (group) decideGroup(Number(group.dataset.group), button.dataset.decision);
  else toggle(number, button.dataset.decision);
}

function begin() {
  restore();
  store();
  update();
  arrange();
  isSaved = true;
  gallery.addEventListener('click', (event) => {
    const clicked = event.target.closest('.card');
    if (clicked) select(Number(clicked.dataset.position));
    if (event.target.closest('.thumb')) openDetail();
    clickAnswer(event, items[current]?.number);
  });
  detail.addEventListener('click', (event) => {
    const step = event.target.closest('button[data-go]');
    if (step) go(current + Number(step.dataset.go));
    clickAnswer(event, items[current]?.number);
  });
  detail.addEventListener('close', () => go(current));
  for (const button of document.querySelectorAll('button.close')) {
    button.addEventListener('click', () => button.closest('dialog').close());
  }
  const clicks = { next: goToNextQuestion, 'detail-next': goToNextQuestion, undo, save, heat: toggleHeat,
    'detail-heat': toggleHeat, help: () => keys.showModal(), load: () => byId('file').click() };
  for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener('click', action);
  byId('file').addEventListener('change', ({ target }) => {
    if (target.files.length) load(target.files[0]);
    target.value = '';
  });
  for (const id of ['order', 'filter', 'search']) byId(id).addEventListener('input', arrange);
  document.addEventListener('keydown', press);
  document.addEventListener('scroll', () => requestAnimationFrame(drawRows), { passive: true });
  window.addEventListener('resize', () => layOut(sections));
  window.addEventListener('beforeprint', drawPrinted);
  window.addEventListener('beforeunload', (event) => {
    if (!isStored && !isSaved) event.preventDefault();
  });
}

begin();
