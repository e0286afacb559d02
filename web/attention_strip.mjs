/**
 * Attention as it is being sampled: decoded payloads, the strip of views with heat maps, and the ranking of words at a pixel.
 *
 * A payload is what the server sends as `grounded_dreamer.attention`; `decodeAttention` lists the fields. Attention maps are a
 * few hundred cells a view, drawn into a small <canvas> that the browser scales up smoothly.
 */
import { keyOf } from "./focus_state.mjs";

const RANKED = 4;

/**
 * A payload, checked and decoded, or null when it is not one. Fields that a step leaves out are kept from `previous`.
 * @returns {{run: string, node: string, workflow: string | null, prompt: string, state: "running" | "done" | "interrupted" | "failed", step: number, total: number,
 *   threshold: number | null, size: [number, number], views: (string | null)[],
 *   words: Map<string, {word: string, attention: number | null, scale: number, map: Uint8Array | null}>} | null}
 */
export function decodeAttention(payload, previous = null) {
  if (payload?.v !== 1 || typeof payload.run !== "string" || !Array.isArray(payload.words)) return null;
  const before = previous?.run === payload.run ? previous : null;
  const [height, width] = Array.isArray(payload.map_size) ? payload.map_size.map(Number) : (before?.size ?? [0, 0]);
  const words = new Map();
  for (const entry of payload.words) {
    if (typeof entry?.word !== "string") continue;
    const key = keyOf(entry.word, entry.occurrence ?? 0);
    words.set(key, {
      word: entry.word,
      attention: finite(entry.attention),
      scale: finite(entry.scale) ?? 1,
      map: bytes(entry.map, height * width) ?? before?.words.get(key)?.map ?? null,
    });
  }
  return {
    run: payload.run,
    node: String(payload.node ?? ""),
    workflow: typeof payload.workflow === "string" ? payload.workflow : null,
    prompt: String(payload.prompt ?? ""),
    state: ["done", "interrupted", "failed"].includes(payload.state) ? payload.state : "running",
    step: finite(payload.step) ?? 0,
    total: finite(payload.total) ?? 0,
    threshold: finite(payload.threshold),
    size: [height, width],
    views: safeViews(payload.views) ?? before?.views ?? [],
    words,
  };
}

function finite(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function bytes(base64, cells) {
  if (typeof base64 !== "string" || !cells) return null;
  let text;
  try {
    text = atob(base64);
  } catch {
    return null;
  }
  if (!text.length || text.length % cells) return null;
  return Uint8Array.from(text, (char) => char.charCodeAt(0));
}

/** Only inline images: a payload never makes the page fetch anything. */
function safeViews(views) {
  if (!Array.isArray(views) || !views.some(Boolean)) return null;
  return views.map((url) => (/^data:image\/(?:jpeg|png|webp);base64,/.test(url ?? "") ? url : null));
}

/**
 * The words at one cell of one view, strongest first.
 * @returns {{key: string, share: number}[]} `share`: the word's part of the attention of all captured words there, 0..1.
 */
export function rankWords(attention, view, row, column) {
  const [height, width] = attention.size;
  const index = (view * height + row) * width + column;
  const ranked = [];
  let sum = 0;
  for (const [key, { map, scale }] of attention.words) {
    const raw = ((map?.[index] ?? 0) / 255) * scale;
    sum += raw;
    if (raw > 0) ranked.push({ key, share: raw });
  }
  for (const item of ranked) item.share /= sum;
  return ranked.sort((a, b) => b.share - a.share);
}

/** Inferno, sampled at nine points (matplotlib's table); perceptually even, so that twice as hot looks twice as hot. */
const INFERNO = [
  [0, 0, 4],
  [31, 12, 72],
  [85, 15, 109],
  [136, 34, 106],
  [186, 54, 85],
  [227, 89, 51],
  [249, 140, 10],
  [249, 201, 50],
  [252, 255, 164],
];

/** RGBA of a heat map: cold cells dim the picture, hot cells glow over it. */
export function heatPixels(map, from, to) {
  let low = 255;
  let high = 0;
  for (const byte of map) {
    low = Math.min(low, byte);
    high = Math.max(high, byte);
  }
  const pixels = new Uint8ClampedArray((to - from) * 4);
  for (let i = from; i < to; i++) {
    const heat = high > low ? (map[i] - low) / (high - low) : 0;
    const place = heat * (INFERNO.length - 1);
    const left = Math.min(INFERNO.length - 2, Math.floor(place));
    for (let c = 0; c < 3; c++) {
      pixels[(i - from) * 4 + c] = INFERNO[left][c] + (place - left) * (INFERNO[left + 1][c] - INFERNO[left][c]);
    }
    pixels[(i - from) * 4 + 3] = 190;
  }
  return pixels;
}

/** The strip: four views, the heat map of one word over all of them, a line that explains what is seen. */
export class AttentionStrip {
  /**
   * @param {(key: string) => string} labelOf the word as it was typed
   * @param {(ranked: {key: string, share: number}[]) => void} onRanked told the words at the pointed pixel, strongest first
   * @param {(name: string, values?: object) => string} text
   */
  constructor({ labelOf, onRanked, text }) {
    this.labelOf = labelOf;
    this.onRanked = onRanked;
    this.text = text;
    this.attention = null;
    this.shownKey = null;
    this.cursor = null;

    this.element = make("div", "gd-strip");
    this.frames = make("div", "gd-views");
    this.frames.setAttribute("role", "group");
    this.frames.setAttribute("aria-label", text("views"));
    this.caption = make("div", "gd-caption");
    // Spoken only for the keyboard's cursor: a pointer that sweeps over the views must not flood a screen reader.
    this.spoken = make("div", "gd-hidden");
    this.spoken.setAttribute("aria-live", "polite");
    this.element.append(this.frames, this.caption, this.spoken);
    this.views = [];
    this.makeViews(4);
    this.listen();
    this.explain();
  }

  makeViews(count) {
    if (this.views.length === count) return;
    this.views = Array.from({ length: count }, (_, index) => {
      const frame = make("div", "gd-view");
      frame.dataset.view = index;
      frame.tabIndex = -1;
      frame.setAttribute("role", "img");
      const image = make("img", "gd-view-image");
      image.alt = "";
      image.draggable = false;
      image.hidden = true;
      const heat = make("canvas", "gd-heat");
      const cell = make("div", "gd-cell");
      frame.append(image, heat, cell);
      return { frame, image, heat, cell };
    });
    this.frames.replaceChildren(...this.views.map(({ frame }) => frame));
    this.frames.style.setProperty("--gd-count", count);
  }

  /** @param attention decoded payload or null; @param earlier true when it belongs to an earlier wording of the prompt */
  update(attention, earlier = false) {
    this.attention = attention;
    this.earlier = earlier;
    this.element.dataset.state = attention?.state ?? "empty";
    if (attention?.views.length) this.makeViews(attention.views.length);
    this.views.forEach(({ frame, image }, index) => {
      const url = attention?.views[index] ?? null;
      image.hidden = !url;
      if (!url) image.removeAttribute("src");
      else if (image.src !== url) image.src = url;
      frame.tabIndex = attention && index === (this.cursor?.view ?? 0) ? 0 : -1;
      frame.setAttribute("aria-label", this.text("view", { index: index + 1, count: this.views.length }));
    });
    this.element.style.setProperty("--gd-done", attention?.total ? attention.step / attention.total : 0);
    this.drawHeat();
    this.explain();
  }

  /** Lay one word's heat map over all views; null takes it away. */
  show(key) {
    this.shownKey = key;
    this.drawHeat();
    this.explain();
  }

  drawHeat() {
    const map = this.attention?.words.get(this.shownKey)?.map;
    const [height, width] = this.attention?.size ?? [0, 0];
    const cells = height * width;
    this.views.forEach(({ heat }, index) => {
      const known = map && map.length >= (index + 1) * cells;
      heat.classList.toggle("gd-on", Boolean(known));
      if (!known) return;
      heat.width = width;
      heat.height = height;
      const pixels = heatPixels(map, index * cells, (index + 1) * cells);
      heat.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
    });
  }

  listen() {
    this.frames.addEventListener("pointermove", (event) => {
      const frame = event.target.closest?.(".gd-view");
      if (!frame || !this.attention) return;
      const box = frame.getBoundingClientRect();
      this.point(Number(frame.dataset.view), (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    });
    this.frames.addEventListener("pointerleave", () => this.unpoint());
    this.frames.addEventListener("focusin", (event) => {
      if (this.cursor || !event.target.matches(":focus-visible")) return;
      this.point(Number(event.target.dataset.view), 0.5, 0.5);
      this.spoken.textContent = this.caption.textContent;
    });
    this.frames.addEventListener("focusout", (event) => {
      if (!this.frames.contains(event.relatedTarget)) this.unpoint();
    });
    this.frames.addEventListener("keydown", (event) => this.moveCursor(event));
  }

  moveCursor(event) {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey || !this.attention) return;
    event.preventDefault();
    event.stopPropagation();
    const [height, width] = this.attention.size;
    if (!height || !width) return;
    const at = this.cursor ?? { view: 0, row: height >> 1, column: width >> 1 };
    // Columns run on through all views, so that arrows alone reach every pixel.
    const column = Math.min(this.views.length * width - 1, Math.max(0, at.view * width + at.column + move[1]));
    const row = Math.min(height - 1, Math.max(0, at.row + move[0]));
    const view = Math.floor(column / width);
    this.point(view, ((column % width) + 0.5) / width, (row + 0.5) / height);
    this.views.forEach(({ frame }, index) => (frame.tabIndex = index === view ? 0 : -1));
    this.views[view].frame.focus({ preventScroll: true });
    this.spoken.textContent = this.caption.textContent;
  }

  point(view, x, y) {
    const [height, width] = this.attention.size;
    if (!height || !width) return;
    const row = Math.min(height - 1, Math.max(0, Math.floor(y * height)));
    const column = Math.min(width - 1, Math.max(0, Math.floor(x * width)));
    const { cursor } = this;
    if (cursor && cursor.view === view && cursor.row === row && cursor.column === column) return;
    this.cursor = { view, row, column };
    this.explain();
  }

  unpoint() {
    if (!this.cursor) return;
    this.cursor = null;
    this.explain();
  }

  /** Redraw the pointed cell and the line below the views. */
  explain() {
    const { cursor, attention, text } = this;
    this.views.forEach(({ cell }, index) => {
      const on = cursor?.view === index;
      cell.classList.toggle("gd-on", on);
      if (!on) return;
      const [height, width] = attention.size;
      Object.assign(cell.style, {
        left: `${(cursor.column / width) * 100}%`,
        top: `${(cursor.row / height) * 100}%`,
        width: `${100 / width}%`,
        height: `${100 / height}%`,
      });
    });
    const ranked = cursor && attention ? rankWords(attention, cursor.view, cursor.row, cursor.column) : [];
    this.onRanked(ranked);
    if (ranked.length) {
      this.caption.replaceChildren(...ranked.slice(0, RANKED).map(({ key, share }) => rankItem(this.labelOf(key), share)));
      return;
    }
    this.caption.replaceChildren(...this.legend());
    if (!attention) this.caption.append(text("noRun"));
  }

  /** What the line says when no pixel is pointed at. */
  legend() {
    const { attention, text, shownKey } = this;
    if (!attention) return [];
    if (shownKey === null) {
      return [
        text(
          this.earlier
            ? "earlier"
            : { running: "hoverLive", done: "hoverDone", interrupted: "interrupted", failed: "failed" }[attention.state],
        ),
      ];
    }
    const word = attention.words.get(shownKey);
    const label = this.labelOf(shownKey);
    if (!word?.map) return [text("noMap", { word: label })];
    const strong = make("strong", "gd-legend-word");
    strong.textContent = label;
    const ramp = make("span", "gd-ramp");
    ramp.style.backgroundImage = `linear-gradient(to right, ${INFERNO.map((c) => `rgb(${c})`).join(", ")})`;
    const parts = [strong, text("low"), ramp, text("high")];
    if (word.attention !== null) {
      const amount = make("span", "gd-legend-amount");
      const values = { attention: word.attention.toFixed(2), threshold: attention.threshold?.toFixed(2) };
      amount.textContent = text(attention.threshold === null ? "attention" : "attentionOf", values);
      parts.push(amount);
    }
    return parts;
  }
}

function rankItem(label, share) {
  const item = make("span", "gd-rank");
  const name = make("span", "gd-rank-word");
  name.textContent = label;
  const amount = make("span", "gd-rank-share");
  amount.textContent = `${Math.round(share * 100)}%`;
  item.style.setProperty("--gd-share", share);
  item.append(name, " ", amount);
  return item;
}

export function make(tag, className) {
  const element = document.createElement(tag);
  element.className = className;
  return element;
}
