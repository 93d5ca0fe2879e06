// @ts-check
/** What a run's rows tell, as arrays to draw from; the rows are those of `metrics.jsonl` (docs/training.md). */

/**
 * @typedef {object} History
 * @property {number} known How many of the run's rows have been taken in, those that say nothing included.
 * @property {number[]} steps Rising.
 * @property {number[]} losses One for each of the `steps`, as the next four and `others`.
 * @property {number[]} rates Learning rates.
 * @property {number[]} elapsed Seconds of training; goes on over the parts of a resumed run.
 * @property {number[]} durations Seconds that the step took; NaN for the first of a part, which also loads and warms
 *   up.
 * @property {number[]} memory Bytes at most in use; NaN where nobody looked.
 * @property {number[]} seconds As in the row: since the part began.
 * @property {Record<string, number>[]} others The losses of the adapters that the objective trains besides, by name.
 * @property {number[]} rows In which row each of the `steps` stands.
 * @property {number} total Steps to do; 0 while unknown.
 * @property {Validation[]} validations
 * @property {Preview[]} previews
 * @property {Entry[]} log
 * @property {Ended | null} ended How the last part ended.
 *
 * @typedef {{step: number, loss: number, isBest: boolean, row: number}} Validation
 * @typedef {{step: number, count: number, row: number}} Preview `count` pictures, one for each prompt.
 * @typedef {{step: number, isStopped: boolean, error: string, row: number}} Ended
 * @typedef {"started" | "resumed" | "others" | "note" | "best" | "preview" | "saved" | "kept" | "finished" | "stopped"
 *   | "failed"} Kind `others` names the adapters that the objective trains besides; `saved` is the state and the
 *   adapter that somebody asked for, `kept` a state alone.
 * @typedef {{kind: Kind, step: number, elapsed: number, time: number, text: string, row: number}} Entry `time` in
 *   seconds since 1970; NaN in the rows of old versions. `elapsed` is of training, in seconds.
 * @typedef {Record<string, any>} Row
 */

/** @returns {History} */
export function newHistory() {
  return {
    known: 0,
    steps: [],
    losses: [],
    others: [],
    rates: [],
    elapsed: [],
    durations: [],
    memory: [],
    seconds: [],
    rows: [],
    total: 0,
    validations: [],
    previews: [],
    log: [],
    ended: null,
  };
}

/** @type {Record<string, number>} */
const NOTHING = Object.freeze({});
const COLUMNS = /** @type {const} */ ([
  "steps",
  "losses",
  "others",
  "rates",
  "elapsed",
  "durations",
  "memory",
  "seconds",
  "rows",
]);

/**
 * Take in rows. What is known from row number `from` on is dropped first: the run has gone on from an earlier state.
 * @param {History} history Changed.
 * @param {number} from The number of the first of the rows.
 * @param {unknown[]} rows
 * @returns {boolean} Whether they fit; false where rows in between are missing, and nothing is changed.
 */
export function take(history, from, rows) {
  if (from > history.known) return false;
  if (from < history.known) truncate(history, from);
  for (const row of rows) {
    const number = history.known++;
    if (isRow(row)) fold(history, row, number);
  }
  return true;
}

/**
 * Forget what the rows from this number on have said.
 * @param {History} history
 * @param {number} from
 */
export function truncate(history, from) {
  let kept = history.rows.length;
  while (kept > 0 && history.rows[kept - 1] >= from) kept -= 1;
  cut(history, kept);
  history.validations = history.validations.filter((each) => each.row < from);
  history.previews = history.previews.filter((each) => each.row < from);
  history.log = history.log.filter((each) => each.row < from);
  if (history.ended !== null && history.ended.row >= from) history.ended = null;
  history.known = Math.min(history.known, from);
}

/** @param {History} history @param {number} kept */
function cut(history, kept) {
  for (const column of COLUMNS) history[column].length = kept;
}

/** @param {unknown} row @returns {row is Row} */
function isRow(row) {
  return typeof row === "object" && row !== null && Number.isInteger(/** @type {Row} */ (row).step);
}

/** @type {Record<string, (history: History, row: Row, number: number) => void>} */
const FOLDS = {
  started(history, row, number) {
    if (Number.isInteger(row.steps)) history.total = row.steps;
    history.ended = null;
    note(history, row.step > 0 ? "resumed" : "started", row, number);
    if (Array.isArray(row.others) && row.others.length) note(history, "others", row, number, row.others.join(", "));
    for (const text of Array.isArray(row.notes) ? row.notes : []) note(history, "note", row, number, String(text));
  },
  step(history, row, number) {
    if (Number.isFinite(row.loss)) foldStep(history, row, number);
  },
  validation(history, row, number) {
    if (!Number.isFinite(row.validation)) return;
    replace(history.validations, { step: row.step, loss: row.validation, isBest: row.best === true, row: number });
    if (row.best === true) note(history, "best", row, number, String(row.validation));
  },
  preview(history, row, number) {
    if (!Array.isArray(row.pictures) || row.pictures.length === 0) return;
    replace(history.previews, { step: row.step, count: row.pictures.length, row: number });
    note(history, "preview", row, number);
  },
  note(history, row, number) {
    if (typeof row.text === "string") note(history, "note", row, number, row.text);
  },
  saved(history, row, number) {
    note(history, row.adapter === true ? "saved" : "kept", row, number);
  },
  ended(history, row, number) {
    const error = typeof row.error === "string" ? row.error : "";
    history.ended = { step: row.step, isStopped: row.stopped === true, error, row: number };
    note(history, error ? "failed" : row.stopped === true ? "stopped" : "finished", row, number, error);
  },
};

/** @param {History} history @param {Row} row @param {number} number */
function fold(history, row, number) {
  if (typeof row.event === "string" && Object.hasOwn(FOLDS, row.event)) FOLDS[row.event](history, row, number);
}

/** @param {History} history @param {Row} row @param {number} number */
function foldStep(history, row, number) {
  // A step that comes again replaces what was known of it and of those after it: the run went on from before it.
  let kept = history.steps.length;
  while (kept > 0 && history.steps[kept - 1] >= row.step) kept -= 1;
  cut(history, kept);
  const seconds = Number.isFinite(row.seconds) ? row.seconds : (history.seconds[kept - 1] ?? 0);
  const before = kept > 0 ? history.seconds[kept - 1] : 0;
  const isNewPart = kept === 0 || seconds < before;
  const elapsed = (history.elapsed[kept - 1] ?? 0) + (isNewPart ? seconds : seconds - before);
  const apart = kept > 0 ? row.step - history.steps[kept - 1] : 1; // rows in between may be lost
  history.steps.push(row.step);
  history.losses.push(row.loss);
  history.others.push(numbers(row.losses));
  history.rates.push(Number.isFinite(row.learning_rate) ? row.learning_rate : NaN);
  history.elapsed.push(elapsed);
  history.durations.push(isNewPart ? NaN : (seconds - before) / apart);
  history.memory.push(row.memory > 0 ? row.memory : NaN);
  history.seconds.push(seconds);
  history.rows.push(number);
  if (Number.isInteger(row.steps)) history.total = row.steps;
}

/** Those values of a row's object that are numbers. @param {unknown} value @returns {Record<string, number>} */
function numbers(value) {
  if (typeof value !== "object" || value === null) return NOTHING;
  return Object.fromEntries(Object.entries(value).filter(([, each]) => Number.isFinite(each)));
}

/** @param {History} history @param {Kind} kind @param {Row} row @param {number} number @param {string} text */
function note(history, kind, row, number, text = "") {
  const time = Number.isFinite(row.time) ? row.time : NaN;
  history.log.push({ kind, step: row.step, elapsed: history.elapsed.at(-1) ?? 0, time, text, row: number });
}

/**
 * Put a value at its step's place; the one that was there, or after it, is of a part of the run that was done again.
 * @template {{step: number}} T
 * @param {T[]} list
 * @param {T} value
 */
function replace(list, value) {
  while (list.length > 0 && list[list.length - 1].step >= value.step) list.pop();
  list.push(value);
}

/**
 * The exponential moving average without its bias towards zero at the start, as TensorBoard draws it.
 * @param {ArrayLike<number>} values
 * @param {number} weight From 0 (as they are) to just below 1; how much of the average stays at each step.
 * @returns {Float64Array}
 */
export function smooth(values, weight) {
  const result = new Float64Array(values.length);
  let sum = 0;
  let whole = 0; // what the weights so far add up to: 1 − weightⁿ
  for (let i = 0; i < values.length; i += 1) {
    sum = weight * sum + (1 - weight) * values[i];
    whole = weight * whole + (1 - weight);
    result[i] = sum / whole;
  }
  return result;
}

/** @param {number[]} values @returns {number} NaN of none. */
export function median(values) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length === 0 ? NaN : sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

const RECENT = 20;
const RECENT_WITH_PREVIEWS = 200;

/**
 * Steps per second of late; the median, which a preview or a validation in between does not disturb.
 * @param {History} history
 * @returns {number} NaN while unknown.
 */
export function speed(history) {
  return 1 / median(history.durations.slice(-RECENT));
}

/**
 * Seconds until the last step. From the mean of many steps, because the previews to come take their time as well.
 * @param {History} history
 * @param {number} steps To do in all.
 * @returns {number} NaN while unknown.
 */
export function timeLeft(history, steps) {
  const recent = history.durations.slice(-RECENT_WITH_PREVIEWS).filter(Number.isFinite);
  const mean = recent.reduce((sum, each) => sum + each, 0) / recent.length;
  return Math.max(0, steps - (history.steps.at(-1) ?? 0)) * mean;
}

/** @param {History} history @returns {Validation | undefined} The lowest; the first of equals. */
export function bestValidation(history) {
  return history.validations.reduce(
    (/** @type {Validation | undefined} */ best, each) => (best === undefined || each.loss < best.loss ? each : best),
    undefined,
  );
}
