/**
 * Words of a prompt and the focus weights they carry: pure functions, no DOM.
 *
 * The state is one JSON string, the value of the widget and of the node's `focus` input:
 *   ""                                                                   automatic: the prompt's default subjects, weight 1
 *   {"v":1,"focus":[{"word":"cube","occurrence":0,"weight":1.2}]}        exactly these words and no others
 * It is keyed by word and occurrence rather than by position, so that editing the prompt keeps the weights.
 * The words are cut as `gd_core/attention/words.py` cuts them; the server's answer wins where the two disagree.
 */

import { subjectsOf } from "./prompt_subjects.mjs";

export const WEIGHT_MAX = 3;
export const WEIGHT_STEP = 0.05;
export const WEIGHT_DEFAULT = 1;

/**
 * A word is letters and digits, joined over inner hyphens and apostrophes; every other run of signs stands alone (words.py).
 */
const PIECES = /([\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*)|(?:(?![\p{L}\p{N}])\S)+/gu;

/** The key that `ViewSet.attention` uses: "cube", "cube#2" for the second occurrence. */
export function keyOf(word, occurrence = 0) {
  return occurrence ? `${word}#${occurrence + 1}` : word;
}

/**
 * The prompt's words in order, each with its subject mark.
 * @param {string} text
 * @returns {{word: string, occurrence: number, key: string, label: string, subject: boolean}[]} `label` as it was typed.
 */
export function promptWords(text) {
  const seen = new Map();
  const pieces = Array.from(text.matchAll(PIECES), ([piece, label]) => {
    if (!label) return { text: piece, word: null };
    const word = label.toLowerCase();
    const occurrence = seen.get(word) ?? 0;
    seen.set(word, occurrence + 1);
    return { text: word, word: { word, occurrence, key: keyOf(word, occurrence), label, subject: false } };
  });
  for (const word of subjectsOf(pieces)) word.subject = true;
  return pieces.flatMap(({ word }) => word ?? []);
}

/** Weights live on a grid, so that dragging writes 1.2 and not 1.2000000000000002. */
export function snapWeight(weight) {
  const steps = Math.round(Math.min(WEIGHT_MAX, Math.max(0, weight)) / WEIGHT_STEP);
  return Number((steps * WEIGHT_STEP).toFixed(2));
}

/** "1", "1.2", "0.25" */
export function formatWeight(weight) {
  return String(Number(weight.toFixed(2)));
}

/**
 * Read the widget's value.
 * @param {string} text
 * @returns {{mode: "auto" | "explicit" | "broken", problem?: string,
 *   entries: {word: string, occurrence: number, weight: number}[]}}
 *   "broken" carries one sentence that says what is wrong; the text itself is left to the caller to keep.
 */
export function parseState(text) {
  if (typeof text !== "string") return broken("it is not text");
  if (!text.trim()) return { mode: "auto", entries: [] };
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    return broken("it is not valid JSON");
  }
  if (data === null || typeof data !== "object" || Array.isArray(data)) return broken("it is not a JSON object");
  if (data.v !== 1) return broken(`its version is ${JSON.stringify(data.v) ?? "missing"}, and only version 1 is known`);
  if (!Array.isArray(data.focus)) return broken('its "focus" is not a list');
  const entries = new Map();
  for (const [index, item] of data.focus.entries()) {
    const { word, occurrence = 0, weight = WEIGHT_DEFAULT } = item ?? {};
    if (typeof word !== "string" || !word.trim()) return broken(`entry ${index + 1} has no word`);
    if (!Number.isInteger(occurrence) || occurrence < 0) {
      return broken(`the occurrence of '${word}' is not a whole number from 0`);
    }
    if (!Number.isFinite(weight) || weight < 0 || weight > WEIGHT_MAX) {
      return broken(`the weight of '${word}' is not a number from 0 to ${WEIGHT_MAX}`);
    }
    const entry = { word: word.trim().toLowerCase(), occurrence, weight };
    const key = keyOf(entry.word, occurrence);
    if (!entries.has(key)) entries.set(key, entry);
  }
  return { mode: "explicit", entries: [...entries.values()] };
}

function broken(problem) {
  return { mode: "broken", entries: [], problem };
}

/** The one JSON string of some entries, in a fixed field order so that equal states are equal strings. */
export function serializeState(entries) {
  return JSON.stringify({ v: 1, focus: entries.map(({ word, occurrence, weight }) => ({ word, occurrence, weight })) });
}

/**
 * What the widget shows: a chip for each word of the prompt, then the state's words that the prompt no longer has.
 * @returns {{key: string, word: string, occurrence: number, label: string, subject: boolean, focused: boolean, weight: number,
 *   stale: boolean}[]}
 */
export function mergeChips(words, state) {
  const entries = new Map(effectiveEntries(words, state).map((entry) => [keyOf(entry.word, entry.occurrence), entry]));
  const chips = words.map((word) => {
    const entry = entries.get(word.key);
    entries.delete(word.key);
    return { ...word, focused: Boolean(entry), weight: entry?.weight ?? 0, stale: false };
  });
  for (const [key, { word, occurrence, weight }] of entries) {
    chips.push({ key, word, occurrence, label: word, subject: false, focused: true, weight, stale: true });
  }
  return chips;
}

/** The entries that count: the state's own, or the default subjects in automatic mode. */
export function effectiveEntries(words, state) {
  if (state.mode !== "auto") return state.entries;
  return words.filter((word) => word.subject).map(({ word, occurrence }) => ({ word, occurrence, weight: WEIGHT_DEFAULT }));
}

/**
 * The state string after one word's focus changed. `weight` null takes the word out of focus (or removes a stale one).
 * Entries keep the order of the prompt, stale ones last, so that the string reads like the chips.
 */
export function withWeight(words, state, key, weight) {
  const entries = new Map(effectiveEntries(words, state).map((entry) => [keyOf(entry.word, entry.occurrence), entry]));
  const known = words.find((word) => word.key === key) ?? entries.get(key);
  if (!known) return serializeState([...entries.values()]);
  if (weight === null) entries.delete(key);
  else entries.set(key, { word: known.word, occurrence: known.occurrence, weight: snapWeight(weight) });
  const order = new Map(words.map((word, index) => [word.key, index]));
  const place = (entry) => order.get(keyOf(entry.word, entry.occurrence)) ?? words.length;
  return serializeState([...entries.values()].sort((a, b) => place(a) - place(b)));
}
