/**
 * What the model says of its own views, on the sampler node: a chip for each subject, and the starts that were tried.
 *
 * A payload is what the server sends as `grounded_dreamer.verdicts` and keeps as the node's `gd_verdicts`. Texts from prompts
 * enter the page through `textContent` only, and only inline pictures are shown.
 */
import { make } from "./attention_strip.mjs";

const WORDS = ["there", "doubtful", "missing"];
const MOST = 16;
const PICTURE = /^data:image\/(?:jpeg|png|webp);base64,/;

/** @returns {object | null} a payload of known version with known fields only, or null */
export function decodeVerdicts(payload) {
  if (payload?.v !== 1) return null;
  return {
    node: String(payload.node ?? ""),
    workflow: typeof payload.workflow === "string" ? payload.workflow : null,
    winner: payload.winner == null ? null : String(payload.winner),
    verdicts: said(payload.verdicts),
    candidates: list(payload.candidates).map((candidate) => ({
      seed: String(candidate?.seed ?? ""),
      score: Number.isFinite(candidate?.score) ? candidate.score : null,
      verdicts: said(candidate?.verdicts),
      views: PICTURE.test(candidate?.views ?? "") ? candidate.views : null,
    })),
  };
}

function list(value) {
  return Array.isArray(value) ? value.slice(0, MOST) : [];
}

function said(verdicts) {
  return list(verdicts)
    .filter((verdict) => WORDS.includes(verdict?.word))
    .map(({ name, word, probability }) => ({
      name: String(name ?? ""),
      word,
      probability: Number.isFinite(probability) ? probability : null,
    }));
}

export class VerdictStrip {
  /** @param {(name: string, values?: object) => string} text @param {() => void} onResize it takes more or less room */
  constructor({ text, onResize }) {
    Object.assign(this, { text, onResize });
    this.element = make("div", "gd-focus gd-verdicts");
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", text("verdicts"));
    this.chips = make("div", "gd-verdict-chips");
    this.chips.setAttribute("role", "status");
    this.starts = make("div", "gd-starts");
    this.element.append(this.chips, this.starts);
    this.show(null);
  }

  /** Pixels that it needs. */
  get height() {
    const rows = this.shown?.candidates.length ?? 0;
    const chips = this.shown?.verdicts.length ?? 0;
    return this.element.hidden ? 0 : 16 + (chips ? 28 * Math.ceil(chips / 2) : 0) + 56 * rows;
  }

  /** @param shown what `decodeVerdicts` returned, or null */
  show(shown) {
    this.shown = shown;
    this.element.hidden = !shown?.verdicts.length && !shown?.candidates.length;
    this.chips.replaceChildren(...(shown?.verdicts ?? []).map((verdict) => this.chip(verdict)));
    this.starts.replaceChildren(...(shown?.candidates ?? []).map((candidate) => this.start(candidate)));
    this.onResize?.();
  }

  chip({ name, word, probability }) {
    const chip = make("span", `gd-verdict gd-${word}`);
    const subject = make("strong", "gd-verdict-name");
    subject.textContent = name;
    const sure = probability === null ? this.text("uncalibrated") : `${Math.round(100 * probability)} %`;
    chip.append(subject, ` ${this.text(word)} (${sure})`);
    return chip;
  }

  start({ seed, score, verdicts, views }) {
    const row = make("figure", "gd-start");
    const won = seed === this.shown.winner;
    row.classList.toggle("gd-won", won);
    if (views) {
      const image = make("img", "gd-start-views");
      image.src = views;
      image.alt = this.text("start", { seed });
      image.draggable = false;
      row.append(image);
    }
    const caption = make("figcaption", "gd-start-caption");
    const least = verdicts.map(({ probability }) => probability).filter((value) => value !== null);
    const whole = least.length ? `${Math.round(100 * least.reduce((a, b) => a * b, 1))} %` : (score?.toFixed(3) ?? "");
    caption.textContent = this.text(won ? "won" : "start", { seed }) + (whole && ` · ${whole}`);
    row.append(caption);
    return row;
  }
}
