/**
 * The words of a prompt and the focus weights they carry: pure functions, no DOM.
 *
 * The server cuts the prompt into words and says which of them are subjects (`nodes/routes.py`); the page never guesses.
 * The state is one JSON string, the value of the widget and of the node's `focus` input:
 *   ""                                                                   automatic: the subjects, and words weighed in the text
 *   {"v":1,"focus":[{"word":"cube","occurrence":0,"weight":1.2}]}        these words, and those that the text weighs itself
 * It is keyed by word and occurrence rather than by position, so that editing the prompt keeps the weights.
 */

export const WEIGHT_MAX = 3;
export const WEIGHT_STEP = 0.05;
export const WEIGHT_DEFAULT = 1;

/** The key that `ViewSet.attention` uses: "cube", "cube#2" for the second occurrence. */
export function keyOf(word, occurrence = 0) {
  return occurrence ? `${word}#${occurrence + 1}` : word;
}

const NOTHING = { words: [], clean: "", notes: [], unknown: new Map() };

/**
 * The server's answer about a prompt, checked; one without words when it is no answer.
 * @returns {{words: {word: string, occurrence: number, key: string, label: string, subject: boolean, weight: number | null,
 *   focus: number | null}[], clean: string, notes: string[], unknown: Map<string, string | null>}} `weight`: what the text
 *   itself gives the word, as in (cube:1.05); `focus`: its weight in automatic mode, null for a word without focus;
 *   `clean`: the prompt as it is encoded; `unknown`: words that the connected model does not know, with the nearest it knows
 */
export function readAnswer(answer) {
  if (!Array.isArray(answer?.words)) return NOTHING;
  const words = answer.words
    .filter((item) => typeof item?.word === "string")
    .map((item) => {
      const { word, occurrence = 0 } = item;
      const label = typeof item.label === "string" ? item.label : word;
      const [weight, focus] = [weightOrNull(item.weight), weightOrNull(item.focus)];
      return { word, occurrence, key: keyOf(word, occurrence), label, subject: Boolean(item.subject), weight, focus };
    });
  const unknown = (answer.unknown ?? []).filter((item) => typeof item?.word === "string");
  return {
    words,
    clean: String(answer.text_clean ?? ""),
    notes: (answer.notes ?? []).map(String),
    unknown: new Map(unknown.map(({ word, nearest }) => [word, typeof nearest === "string" ? nearest : null])),
  };
}

function weightOrNull(value) {
  return Number.isFinite(value) ? Math.min(WEIGHT_MAX, Math.max(0, value)) : null;
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
 *   stale: boolean, written: boolean}[]} `written`: the weight is the text's own
 */
export function mergeChips(words, state) {
  const weights = effectiveWeights(words, state);
  const own = new Map(state.entries.map((entry) => [keyOf(entry.word, entry.occurrence), entry]));
  const chips = words.map(({ word, occurrence, key, label, subject, weight: written }) => {
    const weight = weights.get(key);
    const shown = { focused: weight !== undefined, weight: weight ?? 0, stale: false };
    return { key, word, occurrence, label, subject, ...shown, written: written !== null && shown.focused && !own.has(key) };
  });
  const inPrompt = new Set(words.map(({ key }) => key));
  for (const [key, { word, occurrence, weight }] of own) {
    if (inPrompt.has(key)) continue;
    chips.push({ key, word, occurrence, label: word, subject: false, focused: true, weight, stale: true, written: false });
  }
  return chips;
}

/** The weight of each word of the prompt that is in focus, by key. */
export function effectiveWeights(words, state) {
  const own = new Map(state.entries.map((entry) => [keyOf(entry.word, entry.occurrence), entry.weight]));
  const automatic = isLeftAutomatic(words, state);
  const found = new Map();
  for (const { key, weight, focus } of words) {
    const value = automatic ? focus : state.mode === "broken" ? null : (own.get(key) ?? weight);
    if (value !== null) found.set(key, value);
  }
  return found;
}

/** Nothing was chosen, or nothing that was chosen is in the prompt: the run takes the subjects. */
function isLeftAutomatic(words, state) {
  const keys = new Set(words.map(({ key }) => key));
  const inPrompt = state.entries.some((entry) => keys.has(keyOf(entry.word, entry.occurrence)));
  return state.mode === "auto" || (state.mode === "explicit" && state.entries.length > 0 && !inPrompt);
}

/**
 * The state string after one word's focus changed. `weight` null takes the word out of focus (or removes a stale one).
 * Entries keep the order of the prompt, stale ones last, so that the string reads like the chips. A choice that is what
 * automatic would choose is automatic: equal settings are equal strings, and ComfyUI runs nothing again for them.
 */
export function withWeight(words, state, key, weight) {
  const automatic = isLeftAutomatic(words, state) ? words.filter((one) => one.focus !== null && one.weight === null) : [];
  const start = [...automatic.map(({ word, occurrence, focus }) => ({ word, occurrence, weight: focus })), ...state.entries];
  const entries = new Map(start.map((entry) => [keyOf(entry.word, entry.occurrence), entry]));
  const known = words.find((word) => word.key === key);
  const { word, occurrence, weight: written = null } = known ?? entries.get(key) ?? {};
  if (word !== undefined) {
    // A word that the text weighs is in focus without an entry: taking it out needs one that says 0.
    if (weight === null && written !== null && known) entries.set(key, { word, occurrence, weight: 0 });
    else if (weight === null) entries.delete(key);
    else entries.set(key, { word, occurrence, weight: snapWeight(weight) });
  }
  const order = new Map(words.map(({ key: of }, index) => [of, index]));
  const place = (entry) => order.get(keyOf(entry.word, entry.occurrence)) ?? words.length;
  const chosen = [...entries.values()].sort((a, b) => place(a) - place(b));
  return isAutomatic(words, chosen) ? "" : serializeState(chosen);
}

function isAutomatic(words, entries) {
  if (entries.some((entry) => !words.some((word) => word.key === keyOf(entry.word, entry.occurrence)))) return false;
  const automatic = effectiveWeights(words, { mode: "auto", entries: [] });
  const chosen = effectiveWeights(words, { mode: "explicit", entries });
  return automatic.size === chosen.size && [...automatic].every(([key, weight]) => chosen.get(key) === weight);
}
