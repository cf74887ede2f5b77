'use strict';
/* The gallery: rows of cards and headings of groups, of which only those near the window exist. */

const GAP = 0.75, CARD_HEIGHT = 18.5, HEADING_HEIGHT = 7.5; // in rem, gaps included in heights
const cardWidth = () => (window.innerWidth < 480 ? 9.5 : 11.5);
const gallery = document.getElementById('gallery');
const drawnRows = new Map(); // row numbers to elements
let rows = []; // { top, height } and { section } or { first, last }, positions in `items`
let columns = 1;

/* Where every row of `sections` lies: { group, first, last } with positions in `items`. */
function layOut(sections) {
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  columns = Math.max(1, Math.floor((gallery.clientWidth / rem + GAP) / (cardWidth() + GAP)));
  gallery.style.setProperty('--columns', columns);
  rows = [];
  let top = 0;
  const add = (height, row) => {
    rows.push({ ...row, top, height });
    top += height;
  };
  for (const section of sections) {
    if (section.title) add(HEADING_HEIGHT * rem, { section });
    for (let first = section.first; first < section.last; first += columns) {
      add(CARD_HEIGHT * rem, { first, last: Math.min(first + columns, section.last) });
    }
  }
  gallery.style.height = `${top}px`;
  const hadFocus = gallery.contains(document.activeElement);
  gallery.replaceChildren();
  drawnRows.clear();
  drawRows();
  if (hadFocus) gallery.querySelector('.card.current')?.focus({ preventScroll: true });
}

function rowOf(position) {
  return rows.findIndex((row) => row.first <= position && position < row.last);
}

/* Make the rows near the window, and that of the current card, and remove all others. */
function drawRows() {
  const offset = -gallery.getBoundingClientRect().top;
  const from = offset - window.innerHeight / 2, to = offset + 1.5 * window.innerHeight;
  const wanted = new Set([rowOf(current)]);
  rows.forEach((row, number) => {
    if (row.top + row.height > from && row.top < to) wanted.add(number);
  });
  wanted.delete(-1);
  for (const [number, element] of drawnRows) {
    if (!wanted.has(number)) {
      element.remove();
      drawnRows.delete(number);
    }
  }
  for (const number of wanted) {
    if (drawnRows.has(number)) continue;
    const element = rows[number].section ? heading(rows[number]) : rowOfCards(rows[number]);
    element.style.top = `${rows[number].top}px`;
    element.style.height = `${rows[number].height}px`;
    element.dataset.row = number;
    const next = [...gallery.children].find((other) => Number(other.dataset.row) > number);
    gallery.insertBefore(element, next ?? null); // in reading order, which the tab key follows
    drawnRows.set(number, element);
  }
}

function heading({ section }) {
  const { title, evidence, group, last, first } = section;
  const shown = last - first;
  const count = group === null ? `${shown} images` : countOf(groups[group].images.length, shown);
  return make('div', { class: 'heading', role: 'presentation' },
    make('h2', {}, title, ' ', make('span', { class: 'quiet' }, count)),
    make('p', { class: 'quiet', title: evidence }, evidence),
    ...(group === null ? [] : [answersOfGroup(group)]));
}

function countOf(images, shown) {
  return shown === images ? `${images} images` : `${images} images, ${shown} of them shown`;
}

function answersOfGroup(group) {
  const { title, images: members } = groups[group];
  const buttons = DECISIONS.map((decision) => make('button',
    { type: 'button', 'data-decision': decision, 'aria-label': `${VERBS[decision]} all ${members.length}: ${title}` },
    `${VERBS[decision]} all`));
  return make('div', { class: 'answers', role: 'group', 'data-group': group }, ...buttons);
}

function rowOfCards({ first, last }) {
  const row = make('div', { class: 'row', role: 'presentation' });
  for (let position = first; position < last; position += 1) row.append(card(position));
  return row;
}

function card(position) {
  const number = items[position].number;
  const image = images[number];
  const answers = DECISIONS.map((decision) => make('button',
    { type: 'button', 'data-decision': decision, 'aria-label': `${VERBS[decision]} ${image.path}` }, VERBS[decision]));
  const element = make('article',
    { class: 'card', 'data-position': position, 'aria-posinset': position + 1, 'aria-setsize': items.length },
    make('button', { type: 'button', class: 'thumb', 'aria-label': `Show ${image.path} larger` },
      ...picture(image, image.thumbnail, '')),
    make('p', { class: 'path', title: image.path }, make('bdi', {}, image.path)),
    make('p', { class: 'belief' }),
    make('p', { class: 'quiet' }, marginText(image)),
    make('div', { class: 'answers', role: 'group' }, ...answers));
  refreshCard(element);
  return element;
}

/* What of a card changes: what is believed and decided of its image, and whether it is the current one. */
function refreshCard(element) {
  const position = Number(element.dataset.position), number = items[position].number;
  const isCurrent = position === current, decision = decisions.get(number);
  element.classList.toggle('current', isCurrent);
  element.tabIndex = isCurrent ? 0 : -1;
  element.dataset.decided = decision ?? '';
  element.querySelector('.belief').textContent = beliefText(number);
  element.setAttribute('aria-label', `${images[number].path}, ${beliefText(number)}`);
  for (const button of element.querySelectorAll('button')) button.tabIndex = isCurrent ? 0 : -1;
  pressButtons(element, decision);
}

function pressButtons(element, decision) {
  for (const button of element.querySelectorAll('button[data-decision]')) {
    button.setAttribute('aria-pressed', button.dataset.decision === decision);
  }
}

function refreshCards() {
  for (const element of gallery.querySelectorAll('.card')) refreshCard(element);
}

/* An image's picture and its heat map, one over the other. */
function picture(image, source, text) {
  if (!source) return [make('span', { class: 'quiet' }, 'This image could not be read.')];
  const layers = [make('img', { src: source, alt: text, decoding: 'async' })];
  if (image.heat) layers.push(make('img', { src: image.heat, alt: '', class: 'heat', decoding: 'async' }));
  return layers;
}

/* Scroll so that a card is seen whole, below the bar that stays at the top. */
function scrollToCard(position) {
  const row = rows[rowOf(position)];
  if (!row) return;
  const above = document.querySelector('.bar').getBoundingClientRect();
  const covered = getComputedStyle(document.querySelector('.bar')).position === 'sticky' ? above.height : 0;
  const top = gallery.getBoundingClientRect().top + row.top;
  if (top < covered) window.scrollBy(0, top - covered - 8);
  else if (top + row.height > window.innerHeight) window.scrollBy(0, top + row.height - window.innerHeight + 8);
  drawRows();
}
