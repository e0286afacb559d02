/**
 * The subjects of a prompt by a small rule: `gd_core/attention/subjects.py`, mirrored so that chips are marked before the
 * server answers (and without one). A test holds the two together.
 *
 * Determiners, prepositions, conjunctions, verbs and punctuation cut the prompt into phrases; the last word of a phrase is its
 * noun.
 */

const DETERMINERS = setOf(`
  a an the this that these those some any each every another his her its their my your our one two three four five six seven
  eight nine ten several many few both no
`);
const SEPARATORS = setOf(`
  and or but nor with without on in at of to from by for into onto over under above below beneath beside besides between
  behind near inside outside around against along across through next as while like atop upon off up down left right than is
  are was were be been being has have had do does did can will it they he she who which there sits sit stands stand holds
  hold rides ride wears wear carries carry eats eat plays play looks look lies lie rests rest leans lean hangs hang runs run
  flies fly touches touch covers cover contains contain made
`);
const DEGREES = setOf("very really highly extremely slightly quite too also not just");
const BEFORE_OF = setOf("top front back side middle center centre inside outside left right");
const PICTURES = setOf(
  "photo photograph picture image render rendering painting drawing sketch illustration model close-up closeup view",
);
const NOUNS_IN_ING = setOf(`
  building ring king string wing painting ceiling spring thing swing sling earring pudding dumpling wedding clothing
  lightning duckling sibling viking railing drawing carving stocking herring plaything being
`);

function setOf(words) {
  return new Set(words.trim().split(/\s+/));
}

/**
 * @param {{text: string, word: object | null}[]} pieces words and runs of signs in order; `word` null for signs
 * @returns {object[]} the `word` objects that are subjects
 */
export function subjectsOf(pieces) {
  const phrases = [];
  let phrase;
  const open = (start) => (phrase = { words: [], determined: false, behindComma: false, ...start });
  const close = (next) => {
    if (phrase.words.length) phrases.push(phrase);
    open(next);
  };
  open();
  pieces.forEach(({ text, word }, index) => {
    const beforeOf = pieces[index + 1]?.text === "of";
    if (!word) close({ behindComma: /[,;]/.test(text) });
    else if (DEGREES.has(text)) return;
    else if (DETERMINERS.has(text) || /^\p{Nd}+$/u.test(text)) close({ determined: true });
    else if (PICTURES.has(text) && beforeOf) open();
    else if (SEPARATORS.has(text) || (BEFORE_OF.has(text) && beforeOf) || isVerb(text, phrase.words)) close();
    else phrase.words.push(word);
  });
  close();
  const anyDetermined = phrases.some(({ determined }) => determined);
  return phrases
    .filter(({ determined, behindComma }) => determined || !(anyDetermined && behindComma))
    .map(({ words }) => words[words.length - 1]);
}

function isVerb(text, before) {
  return [...text].length > 4 && text.endsWith("ing") && !NOUNS_IN_ING.has(text) && before.length > 0;
}
