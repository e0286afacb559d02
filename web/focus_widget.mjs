/**
 * The focus widget: the prompt as chips that carry weights, above the strip of views.
 *
 * It knows nothing of ComfyUI. `grounded_dreamer.js` gives it the value, the prompt and the attention, and is told of changes.
 * Prompt text enters the page through `textContent` only.
 */
import { AttentionStrip, make } from "./attention_strip.mjs";
import { ChipGestures } from "./focus_gestures.mjs";
import { WEIGHT_DEFAULT, WEIGHT_MAX, formatWeight, mergeChips, parseState, readAnswer, withWeight } from "./focus_state.mjs";

/** Many times what any text encoder reads; more chips would only slow the page down. */
const MAX_CHIPS = 300;

let instances = 0;

export class FocusWidget {
  /**
   * @param {object} host
   * @param {(value: string) => void} host.onInput the value changed, maybe in the middle of a gesture
   * @param {() => void} host.onCommit a gesture ended: one step of undo
   * @param {() => void} host.onResize the chips take more or less room than before
   * @param {(name: string, values?: object) => string} host.text
   */
  constructor({ onInput, onCommit, onResize, text }) {
    Object.assign(this, { onInput, onCommit, onResize });
    this.text = text;
    this.value = "";
    this.state = parseState("");
    this.answer = readAnswer(null);
    this.chips = new Map();
    this.elements = new Map();
    this.lastWeights = new Map();
    /** Why there are no words: "empty", "linked", "unreachable", or "" while there are some or the server is being asked. */
    this.waiting = "empty";
    this.locked = "";
    this.height = { chips: 0, notice: 0 };
    this.attention = null;
    this.frame = 0;
    this.build();
    this.render();
  }

  build() {
    const { text } = this;
    this.element = make("div", "gd-focus");
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", text("title"));

    const header = make("div", "gd-header");
    const title = make("span", "gd-title");
    title.textContent = text("title");
    this.mode = make("span", "gd-mode");
    this.progress = make("span", "gd-step");
    this.autoButton = make("button", "gd-button");
    this.autoButton.type = "button";
    this.autoButton.textContent = text("useAuto");
    this.autoButton.title = text("useAutoHint");
    this.autoButton.addEventListener("click", () => this.write("", true));
    header.append(title, this.mode, this.progress, this.autoButton);

    const help = make("span", "gd-hidden");
    help.id = `gd-focus-help-${++instances}`;
    help.textContent = text("help");
    this.helpId = help.id;

    this.notice = make("div", "gd-notice");
    this.notice.setAttribute("role", "status");
    this.list = make("div", "gd-chips");
    this.list.dataset.gdChips = "";
    this.list.dataset.captureWheel = "true";
    this.list.setAttribute("role", "toolbar");
    this.list.setAttribute("aria-label", text("chips"));
    this.gestures = new ChipGestures(this.list, {
      weightOf: (key) => this.chips.get(key)?.weight ?? 0,
      isFocused: (key) => this.chips.get(key)?.focused ?? false,
      setWeight: (key, weight) => this.write(withWeight(this.answer.words, this.state, key, weight)),
      toggle: (key) => this.toggle(key),
      reset: (key) => this.reset(key),
      commit: () => this.onCommit(),
      locked: () => Boolean(this.locked) || this.state.mode === "broken",
      onHover: (key) => this.strip.show(key),
    });
    this.hint = make("div", "gd-hint");
    this.hint.textContent = text("hint");
    this.strip = new AttentionStrip({
      labelOf: (key) => this.chips.get(key)?.label ?? key,
      onRanked: (ranked) => this.light(ranked),
      text,
    });
    this.element.append(header, help, this.notice, this.list, this.hint, this.strip.element);
    // The node's width decides how many rows the chips take.
    this.sizes = new ResizeObserver(() => this.measure());
    this.sizes.observe(this.list);
  }

  destroy() {
    cancelAnimationFrame(this.frame);
    this.sizes.disconnect();
    this.gestures.destroy();
  }

  // ---- what the host sets

  setValue(value) {
    this.value = value ?? "";
    this.state = parseState(this.value);
    this.schedule();
  }

  /** @param answer what the server says of the prompt, see `readAnswer` */
  setAnswer(answer) {
    this.answer = answer;
    this.waiting = "";
    this.schedule();
  }

  /** There are no words to show, because the prompt is "empty", "linked" and not known yet, or the server "unreachable". */
  setWaiting(reason) {
    if (reason === this.waiting) return;
    this.answer = readAnswer(null);
    this.waiting = reason;
    this.schedule();
  }

  /** @param attention what `decodeAttention` returned, or null */
  setAttention(attention) {
    this.attention = attention;
    this.schedule();
  }

  /** @param {string} locked name of the sentence that says who feeds the input; "" when it is changed here */
  setLocked(locked) {
    if (locked === this.locked) return;
    this.locked = locked;
    this.schedule();
  }

  // ---- changes by hand

  toggle(key) {
    const chip = this.chips.get(key);
    if (!chip) return;
    const on = chip.focused && chip.weight > 0;
    if (on) this.lastWeights.set(key, chip.weight);
    const weight = on ? null : (this.lastWeights.get(key) ?? WEIGHT_DEFAULT);
    this.write(withWeight(this.answer.words, this.state, key, weight));
  }

  /** Back to what the prompt alone would say: a subject at its weight, any other word out of focus, a stale word gone. */
  reset(key) {
    this.lastWeights.delete(key);
    const word = this.answer.words.find((one) => one.key === key);
    this.write(withWeight(this.answer.words, this.state, key, word?.focus ?? null));
  }

  write(value, commit = false) {
    this.value = value;
    this.state = parseState(value);
    this.render();
    this.onInput(value);
    if (commit) this.onCommit();
  }

  // ---- drawing

  /** Typing and live events come in bursts: draw once a frame. */
  schedule() {
    this.frame ||= requestAnimationFrame(() => this.render());
  }

  render() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const { text, state } = this;
    const { words, unknown } = this.answer;
    const all = mergeChips(words, state).map((chip) => ({ ...chip, nearest: chip.stale ? undefined : unknown.get(chip.word) }));
    const shown = all.length <= MAX_CHIPS ? all : all.filter((chip, index) => index < MAX_CHIPS || chip.focused);
    this.chips = new Map(all.map((chip) => [chip.key, chip]));

    this.element.dataset.mode = state.mode;
    this.element.classList.toggle("gd-locked", Boolean(this.locked));
    this.mode.textContent = state.mode === "broken" ? "" : text(state.mode === "auto" ? "auto" : "own");
    this.autoButton.hidden = state.mode === "auto" || Boolean(this.locked);
    this.hint.hidden = state.mode === "broken" || Boolean(this.locked) || !all.length;
    this.autoButton.textContent = text(state.mode === "broken" ? "startOver" : "useAuto");
    this.renderNotice(all, shown.length);

    const children = shown.map((chip) => this.chipElement(chip));
    const kept = new Set(shown.map((chip) => chip.key));
    for (const key of this.elements.keys()) if (!kept.has(key)) this.elements.delete(key);
    placeChildren(this.list, children);
    if (!this.list.querySelector('[tabindex="0"]') && children.length) children[0].tabIndex = 0;

    const run = this.attention;
    this.progress.textContent = run?.state === "running" ? text("step", { step: run.step, total: run.total }) : "";
    this.strip.update(run, Boolean(run && run.state !== "running" && words.length && run.prompt !== this.answer.clean));
    this.measure();
  }

  /** What there is to be said, a line each. */
  renderNotice(chips, shown) {
    const { text, state } = this;
    const lines = [];
    if (state.mode === "broken") lines.push(text("broken", { problem: state.problem }));
    else if (this.locked) lines.push(text(this.locked));
    if (this.waiting) lines.push(text(this.waiting));
    const stale = chips.filter((chip) => chip.stale).map((chip) => chip.label);
    if (stale.length && anyWord(chips) && state.mode !== "broken") lines.push(text("staleNotice", { words: stale.join(", ") }));
    const unknown = new Map(chips.filter((chip) => chip.nearest !== undefined).map(({ word, nearest }) => [word, nearest]));
    if (unknown.size) lines.push(text("unknown", { words: [...unknown].map(([word, nearest]) => this.named(word, nearest)).join(", ") }));
    lines.push(...this.answer.notes);
    if (chips.length > shown) lines.push(text("more", { count: chips.length - shown }));
    this.notice.replaceChildren(
      ...lines.map((line) => {
        const item = make("div", "gd-notice-line");
        item.textContent = line;
        return item;
      }),
    );
    this.notice.hidden = !lines.length;
  }

  named(word, nearest) {
    return nearest === null ? `“${word}”` : this.text("orNearest", { word, nearest });
  }

  /** Tell the host when chips and notice need another height. */
  measure() {
    const last = this.list.lastElementChild;
    const chips = last ? last.offsetTop + last.offsetHeight - this.list.firstElementChild.offsetTop : 0;
    const notice = this.notice.offsetHeight;
    // Without a place on the page nothing has a height: keep what was known.
    if (!this.element.offsetHeight || (chips === this.height.chips && notice === this.height.notice)) return;
    this.height = { chips, notice };
    this.onResize();
  }

  chipElement(chip) {
    let element = this.elements.get(chip.key);
    if (!element) {
      element = make("div", "gd-chip");
      element.dataset.key = chip.key;
      element.tabIndex = -1;
      element.setAttribute("role", "slider");
      element.setAttribute("aria-orientation", "vertical");
      element.setAttribute("aria-valuemin", "0");
      element.setAttribute("aria-valuemax", String(WEIGHT_MAX));
      element.setAttribute("aria-describedby", this.helpId);
      element.append(make("span", "gd-word"));
      this.elements.set(chip.key, element);
    }
    const live = this.attention?.words.get(chip.key)?.attention ?? null;
    const threshold = this.attention?.threshold ?? null;
    const look = JSON.stringify([chip, chip.nearest === undefined, live, threshold, this.locked]);
    if (element.dataset.look === look) return element;
    element.dataset.look = look;
    element.firstChild.textContent = chip.label;
    element.classList.toggle("gd-focused", chip.focused);
    element.classList.toggle("gd-zero", chip.focused && chip.weight === 0);
    element.classList.toggle("gd-stale", chip.stale);
    element.classList.toggle("gd-suggested", chip.subject && !chip.focused);
    element.classList.toggle("gd-unknown", chip.nearest !== undefined);
    element.title = this.titleOf(chip);
    element.style.setProperty("--gd-weight", chip.weight / WEIGHT_MAX);
    element.setAttribute("aria-label", chip.occurrence ? `${chip.label} (${chip.occurrence + 1})` : chip.label);
    element.setAttribute("aria-valuenow", formatWeight(chip.weight));
    element.setAttribute("aria-valuetext", this.spokenState(chip, live, threshold));
    element.setAttribute("aria-disabled", String(Boolean(this.locked)));
    part(element, "gd-weight", chip.focused).textContent = chip.focused ? formatWeight(chip.weight) : "";
    this.renderMeter(part(element, "gd-meter", live !== null && chip.focused), live, threshold);
    const remove = part(element, "gd-remove", chip.stale && !this.locked, "button");
    if (chip.stale) {
      remove.type = "button";
      remove.tabIndex = -1;
      remove.textContent = "×";
      remove.setAttribute("aria-label", this.text("remove", { word: chip.label }));
    }
    return element;
  }

  titleOf(chip) {
    if (chip.stale) return this.text("staleTitle");
    if (chip.nearest !== undefined) return this.text("unknown", { words: this.named(chip.word, chip.nearest) });
    return chip.written ? this.text("writtenTitle") : "";
  }

  renderMeter(meter, live, threshold) {
    meter.style.setProperty("--gd-live", Math.min(1, Math.max(0, live ?? 0)));
    meter.style.setProperty("--gd-threshold", threshold ?? 0);
    meter.classList.toggle("gd-met", threshold !== null && live >= threshold);
    meter.classList.toggle("gd-asked", threshold !== null);
  }

  spokenState(chip, live, threshold) {
    const { text } = this;
    const weight = formatWeight(chip.weight);
    const parts = [];
    if (chip.stale) parts.push(text("staleAt", { weight }));
    else if (chip.focused) parts.push(text("focusedAt", { weight }));
    else parts.push(text(chip.subject ? "suggested" : "notFocused"));
    if (chip.written) parts.push(text("writtenTitle"));
    if (chip.nearest !== undefined) parts.push(text("unknownTitle"));
    const values = { attention: live?.toFixed(2), threshold: threshold?.toFixed(2) };
    if (live !== null) parts.push(text(threshold === null ? "attentionNow" : "attentionNowOf", values));
    return parts.join(", ");
  }

  /** Light up the chips of the words at the pointed pixel: the leading one wholly, the others by their share of its share. */
  light(ranked) {
    for (const element of this.list.querySelectorAll(".gd-lit")) element.classList.remove("gd-lit", "gd-top");
    for (const { key, share } of ranked) {
      const element = this.elements.get(key);
      element?.classList.add("gd-lit");
      element?.style.setProperty("--gd-here", share / ranked[0].share);
    }
    this.elements.get(ranked[0]?.key)?.classList.add("gd-top");
  }

  focusChip(key) {
    this.render();
    this.elements.get(key)?.focus({ preventScroll: true });
  }
}

function anyWord(chips) {
  return chips.some((chip) => !chip.stale);
}

/** A chip's optional part: made when it is first needed (most words never are in focus), hidden when it is not. */
function part(chip, className, wanted, tag = "span") {
  let element = chip.querySelector(`.${className}`);
  if (!element) {
    element = make(tag, className);
    if (!wanted) return element;
    chip.append(element);
  }
  element.hidden = !wanted;
  return element;
}

/** Give `parent` exactly these children, touching only what moved: a focused chip must not lose the keyboard. */
function placeChildren(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const child of children) {
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
}
