'use strict';
/* Decisions as a table: CSV with the columns path and decision. */

const DECISIONS = ['keep', 'reject', 'unsure'];

function decisionsAsCsv(rows) {
  const cell = (text) => (/[",;\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return [['path', 'decision'], ...rows].map((row) => `${row.map(cell).join(',')}\r\n`).join('');
}

/* A Map of paths to decisions. Throws an Error, in one sentence, where the text is no such table. */
function decisionsOfCsv(text) {
  const firstLine = text.split('\n', 1)[0];
  const delimiter = [',', ';', '\t'].find((each) => firstLine.includes(each)) ?? ',';
  const [header, ...rows] = rowsOfCsv(text.replace(/^\ufeff/, ''), delimiter);
  const names = (header ?? []).map((name) => name.trim().toLowerCase());
  const ofPath = names.indexOf('path'), ofDecision = names.indexOf('decision');
  if (ofPath < 0 || ofDecision < 0) throw new Error('it lacks the columns path and decision');
  const found = new Map();
  rows.forEach((row, number) => {
    if (row.length < names.length) throw new Error(`row ${number + 2} is cut off`);
    const decision = row[ofDecision].trim().toLowerCase();
    if (decision && !DECISIONS.includes(decision)) {
      throw new Error(`row ${number + 2} says “${decision.slice(0, 40)}”, which is neither keep, reject nor unsure`);
    }
    if (decision) found.set(row[ofPath], decision);
  });
  return found;
}

function rowsOfCsv(text, delimiter) {
  const rows = [];
  let row = [], cell = '', isQuoted = false;
  for (let place = 0; place < text.length; place += 1) {
    const character = text[place];
    if (isQuoted) {
      if (character !== '"') cell += character;
      else if (text[place + 1] === '"') { cell += '"'; place += 1; } else isQuoted = false;
    } else if (character === '"' && cell === '') {
      isQuoted = true;
    } else if (character === delimiter) {
      row.push(cell);
      cell = '';
    } else if (character === '\n' || character === '\r') {
      if (character === '\r' && text[place + 1] === '\n') place += 1;
      if (row.length || cell) rows.push([...row, cell]);
      row = [];
      cell = '';
    } else {
      cell += character;
    }
  }
  if (isQuoted) throw new Error('it ends within a quoted cell');
  if (row.length || cell) rows.push([...row, cell]);
  return rows;
}
