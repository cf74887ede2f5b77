'use strict';
/* What is said of an image, and the image with its regions, larger or on paper. */

const MOST_PRINTED = 300;

/* Words */

function percent(share) {
  return `${Math.round(100 * share)} %`;
}

/* Nothing is certain but what was answered. */
function chance(suspicion) {
  if (suspicion < 0.005) return '< 1 %';
  return suspicion >= 0.995 ? '> 99 %' : percent(suspicion);
}

function contaminationText() {
  const [low, high] = [percent(belief.low), percent(belief.high)];
  if (low === high) return `About ${low} of the images are anomalous.`;
  return `Between ${low} and ${high} of the images are anomalous.`;
}

function beliefText(number) {
  const decision = decisions.get(number);
  if (decision === 'keep') return 'kept: good';
  if (decision === 'reject') return 'rejected: anomalous';
  const suspicion = belief.suspicion[number];
  if (decision === 'unsure') return `unsure (${chance(suspicion)})`;
  const words = [[0.95, 'clearly anomalous'], [0.65, 'probably anomalous'], [0.35, 'may be either'],
    [0.05, 'probably good'], [-1, 'clearly good']].find(([least]) => suspicion >= least)[1];
  return `${chance(suspicion)}: ${words}`;
}

function marginText(image) {
  return image.margin === null ? 'above a threshold of 0' : `${image.margin.toFixed(2)} × threshold`;
}

function agreementText(region) {
  if (!region.agreeing) return region.counterpart ? 'No other image shows the same.' : 'Not looked for in other images.';
  return region.agreeing === 1 ? '1 other image shows the same.' : `${region.agreeing} other images show the same.`;
}

/* One image, larger */

function drawDetail() {
  const item = items[current];
  if (!item) {
    detail.close();
    return;
  }
  const image = images[item.number];
  byId('detail-path').replaceChildren(make('bdi', {}, image.path));
  byId('detail-facts').replaceChildren(
    make('strong', {}, beliefText(item.number)),
    ` · score ${image.score.toPrecision(4)}, ${marginText(image)} ${image.threshold.toPrecision(4)}`
    + ` · ${image.width} × ${image.height} pixels`);
  byId('detail-picture').replaceChildren(...picture(image, image.picture ?? image.thumbnail, image.path), outlines(image));
  byId('detail-groups').replaceChildren(...groupsOf(item.number).map((group) => make('section', {},
    make('h3', {}, groups[group].title), make('p', {}, groups[group].evidence), answersOfGroup(group))));
  byId('detail-regions').replaceChildren(...image.regions.map(regionFigure));
  pressButtons(byId('detail-answers'), decisions.get(item.number));
}

/* The boxes of regions, white within black, in pixels of the original image. */
function outlines(image) {
  const size = Math.max(image.width, image.height) / 24;
  const drawing = makeDrawing('svg', { viewBox: `0 0 ${image.width} ${image.height}`, 'aria-hidden': 'true' });
  image.regions.forEach(({ box: [left, top, right, bottom] }, place) => {
    const box = { x: left, y: top, width: right - left, height: bottom - top };
    drawing.append(makeDrawing('rect', { ...box, class: 'outer' }), makeDrawing('rect', { ...box, class: 'inner' }));
    const y = top > 1.2 * size ? top - 0.25 * size : Math.min(bottom + size, image.height - 0.25 * size);
    drawing.append(makeDrawing('text', { x: left, y, 'font-size': size }, String(place + 1)));
  });
  return drawing;
}

function regionFigure(region, place) {
  const section = make('section', { class: 'region' },
    make('h3', {}, `Region ${place + 1}`), make('p', {}, agreementText(region)));
  const pair = make('div', { class: 'pair' });
  if (region.crop) {
    pair.append(make('figure', {}, make('img', { src: region.crop, alt: `Region ${place + 1}` }),
      make('figcaption', {}, 'Here')));
  }
  if (region.like) {
    pair.append(make('figure', {}, make('img', { src: region.like, alt: 'What it should look like' }),
      make('figcaption', {}, 'It should look like this: ', make('bdi', { class: 'path' }, region.counterpart))));
  }
  section.append(pair);
  return section;
}

function openDetail() {
  if (!items.length) return;
  detail.showModal();
  drawDetail();
}

/* The suspects, on paper */

function drawPrinted() {
  const suspects = [...images.keys()].filter((number) => (decisions.get(number) ?? 'keep') !== 'keep'
    || (!decisions.has(number) && belief.suspicion[number] >= 0.5));
  const row = (number) => make('tr', {}, make('td', { class: 'picture' }, ...picture(images[number], images[number].thumbnail, '')),
    make('td', {}, make('bdi', { class: 'path' }, images[number].path)),
    make('td', {}, beliefText(number)), make('td', {}, marginText(images[number])));
  const shown = suspects.slice(0, MOST_PRINTED);
  byId('printed').replaceChildren(
    make('p', {}, contaminationText()),
    make('h2', {}, suspects.length > shown.length ? `The first ${shown.length} of ${suspects.length} suspects` : `${shown.length} suspects`),
    make('table', {}, ...shown.map(row)));
}
