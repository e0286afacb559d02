/**
 * Hands on the chips: click, double click, drag, wheel, digits and other keys, for one container of chips (elements with `data-key`).
 *
 * While a gesture lasts the weight follows it live; `commit` is called once at its end, so that one gesture is one step of
 * undo.
 */
import { WEIGHT_MAX } from "./focus_state.mjs";

const DRAG_START_PX = 4;
const DRAG_PX_PER_WEIGHT = 60;
const WHEEL_STEP = 0.1;
const WHEEL_REST_MS = 350;
const WHEEL_LINE_PX = 16;
/** As long as two clicks count as one double click: only then is the first one a step of undo. */
const DOUBLE_CLICK_MS = 400;
/** Digits that follow one another this fast are one number. */
const TYPING_MS = 1000;
const KEY_STEP = { ArrowUp: 0.1, ArrowDown: -0.1, PageUp: 0.5, PageDown: -0.5 };

/** When the wheel last turned off the chips: a canvas zoom that slides a chip under the pointer is no wish to change it. */
let foreignWheelAt = -Infinity;
const turnedElsewhere = (event) => event.timeStamp - foreignWheelAt < WHEEL_REST_MS;
window.addEventListener(
  "wheel",
  (event) => {
    if (!event.target.closest?.("[data-gd-chips]") || turnedElsewhere(event)) foreignWheelAt = event.timeStamp;
  },
  { capture: true, passive: true },
);

export class ChipGestures {
  /**
   * @param {HTMLElement} container
   * @param {{weightOf: (key: string) => number, isFocused: (key: string) => boolean,
   *   setWeight: (key: string, weight: number | null) => void, toggle: (key: string) => void, reset: (key: string) => void,
   *   commit: () => void, locked: () => boolean, onHover: (key: string | null) => void}} target
   */
  constructor(container, target) {
    this.container = container;
    this.target = target;
    this.drag = null;
    this.swallowClick = false;
    this.uncommitted = false;
    this.restTimer = 0;
    this.scrolledAt = -Infinity;
    this.typed = { key: "", text: "" };
    this.onWheel = (event) => this.wheel(event);

    const on = (type, handler) => container.addEventListener(type, handler);
    on("pointerdown", (event) => this.pointerDown(event));
    on("pointermove", (event) => this.pointerMove(event));
    on("pointerup", () => this.endDrag());
    on("lostpointercapture", () => this.endDrag());
    on("pointercancel", () => this.cancelDrag());
    on("mousedown", (event) => this.mouseDown(event));
    on("click", (event) => this.click(event));
    on("keydown", (event) => this.keyDown(event));
    on("keyup", () => this.typed.text || this.settle());
    on("focusout", () => {
      target.onHover(null);
      this.settle();
    });
    on("pointerover", (event) => target.onHover(chipOf(event)?.dataset.key ?? null));
    // On the window and before anything else: Nodes 2.0 hands wheel events to the canvas before they reach a widget.
    on("pointerenter", () => window.addEventListener("wheel", this.onWheel, { capture: true, passive: false }));
    on("pointerleave", () => {
      this.releaseWheel();
      target.onHover(null);
      this.settle();
      for (const chip of container.children) chip.style.minWidth = "";
    });
    on("focusin", (event) => {
      const chip = chipOf(event);
      if (!chip) return;
      this.rove(chip);
      if (chip.matches(":focus-visible")) target.onHover(chip.dataset.key);
    });
  }

  destroy() {
    this.releaseWheel();
    clearTimeout(this.restTimer);
  }

  releaseWheel() {
    window.removeEventListener("wheel", this.onWheel, { capture: true });
  }

  /** Write the change of an ongoing gesture into the undo history. */
  settle() {
    clearTimeout(this.restTimer);
    this.typed = { key: "", text: "" };
    if (!this.uncommitted || this.drag) return;
    this.uncommitted = false;
    this.target.commit();
  }

  /** The gesture is over unless it goes on within `ms`. */
  settleAfter(ms) {
    clearTimeout(this.restTimer);
    this.restTimer = setTimeout(() => this.settle(), ms);
  }

  change(key, weight) {
    this.uncommitted = true;
    this.target.setWeight(key, Math.min(WEIGHT_MAX, Math.max(0, weight)));
  }

  pointerDown(event) {
    const chip = chipOf(event);
    if (!chip || event.button !== 0 || event.target.closest("button") || this.target.locked()) return;
    const { key } = chip.dataset;
    this.swallowClick = false;
    // The canvas may be zoomed: a pixel on the screen is not a pixel of the widget.
    const zoom = chip.offsetWidth ? chip.getBoundingClientRect().width / chip.offsetWidth : 1;
    const from = this.target.weightOf(key);
    // From here on, so that a fast first move does not lose the chip.
    chip.setPointerCapture(event.pointerId);
    this.drag = {
      chip,
      key,
      zoom,
      from,
      wasFocused: this.target.isFocused(key),
      pointer: event.pointerId,
      x: event.clientX,
      moved: false,
    };
  }

  pointerMove(event) {
    const { drag } = this;
    if (!drag || event.pointerId !== drag.pointer) return;
    if (event.buttons === 0) return this.endDrag();
    const moved = (event.clientX - drag.x) / drag.zoom;
    if (!drag.moved) {
      if (Math.abs(moved) < DRAG_START_PX) return;
      drag.moved = true;
      this.container.classList.add("gd-dragging");
    }
    this.change(drag.key, drag.from + moved / DRAG_PX_PER_WEIGHT);
  }

  endDrag() {
    if (!this.drag) return;
    this.swallowClick = this.drag.moved;
    this.drag = null;
    this.container.classList.remove("gd-dragging");
    this.settle();
  }

  /** The browser or Escape takes the gesture away: put things back as they were. */
  cancelDrag() {
    const { drag } = this;
    if (!drag) return;
    if (drag.moved) this.target.setWeight(drag.key, drag.wasFocused ? drag.from : null);
    this.uncommitted = false;
    this.endDrag();
  }

  /** The second press of a double click resets at once: ComfyUI takes its steps of undo when the button comes up again. */
  mouseDown(event) {
    const chip = chipOf(event);
    if (!chip || event.button !== 0 || event.detail !== 2 || event.target.closest("button") || this.target.locked()) return;
    this.target.reset(chip.dataset.key);
    this.uncommitted = true;
  }

  click(event) {
    const chip = chipOf(event);
    if (!chip || this.target.locked()) return;
    if (this.swallowClick) {
      this.swallowClick = false;
      return;
    }
    const { key } = chip.dataset;
    if (event.target.closest("button")) {
      this.reset(chip);
      return this.settle();
    }
    if (event.detail >= 2) return this.settle();
    this.settle(); // a click on another chip a moment ago
    // A chip that loses its weight must not shrink away from under a double click.
    chip.style.minWidth = `${chip.offsetWidth}px`;
    this.target.toggle(key);
    this.uncommitted = true;
    this.settleAfter(DOUBLE_CLICK_MS);
  }

  /** A turn over a chip in focus weighs it; over anything else the list scrolls, and where it cannot the canvas zooms. */
  wheel(event) {
    if (!this.container.contains(event.target) || !event.deltaY || turnedElsewhere(event)) return;
    // With Ctrl the wheel always zooms the canvas.
    if (event.ctrlKey || event.metaKey) return;
    const key = chipOf(event)?.dataset.key;
    const scrolling = event.timeStamp - this.scrolledAt < WHEEL_REST_MS;
    if (key !== undefined && this.target.isFocused(key) && !this.target.locked() && !scrolling) {
      this.change(key, this.target.weightOf(key) + (event.deltaY < 0 ? WHEEL_STEP : -WHEEL_STEP));
      this.settleAfter(WHEEL_REST_MS);
    } else if (this.container.scrollHeight > this.container.clientHeight + 1) {
      this.container.scrollTop += event.deltaMode === WheelEvent.DOM_DELTA_LINE ? event.deltaY * WHEEL_LINE_PX : event.deltaY;
      this.scrolledAt = event.timeStamp;
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  keyDown(event) {
    const chip = chipOf(event);
    if (!chip || event.target !== chip || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!this.press(event.key, chip, event.repeat)) return;
    // What a chip understands must not also move, delete or pan something on the graph.
    event.preventDefault();
    event.stopPropagation();
  }

  /** @returns {boolean} whether the key means something here */
  press(key, chip, repeat) {
    const go = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[key];
    if (go) this.walk(chip, go);
    else if (key === "Escape" && this.drag) this.cancelDrag();
    else if (this.target.locked()) return false;
    else if (/^[0-9.]$/.test(key)) this.type(chip.dataset.key, key);
    else if (key in KEY_STEP) this.change(chip.dataset.key, this.target.weightOf(chip.dataset.key) + KEY_STEP[key]);
    else if (key === "Enter" || key === " ") {
      if (!repeat) this.target.toggle(chip.dataset.key);
      this.uncommitted = true;
    } else if (key === "Delete" || key === "Backspace") this.reset(chip);
    else return false;
    return true;
  }

  /** "2" is 2; "0", ".", "7" in a row is 0.7. */
  type(key, sign) {
    const text = (this.typed.key === key ? this.typed.text : "") + sign;
    const weight = Number(text.endsWith(".") ? `${text}0` : text);
    if (!Number.isFinite(weight)) return;
    this.change(key, weight);
    this.typed = { key, text };
    this.settleAfter(TYPING_MS);
  }

  reset(chip) {
    // A stale chip goes away: keep the keyboard where it was.
    const held = document.activeElement === chip || chip.contains(document.activeElement);
    const next = chip.nextElementSibling ?? chip.previousElementSibling;
    this.target.reset(chip.dataset.key);
    this.uncommitted = true;
    if (held && !chip.isConnected && next?.dataset.key) next.focus();
  }

  walk(chip, by) {
    const chips = [...this.container.children].filter((child) => child.dataset.key !== undefined);
    const index = Math.min(chips.length - 1, Math.max(0, chips.indexOf(chip) + by));
    chips[index].focus();
  }

  /** One chip is in the page's tab order, the one that was used last. */
  rove(chip) {
    for (const other of this.container.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    chip.tabIndex = 0;
  }
}

function chipOf(event) {
  return event.target.closest?.("[data-key]") ?? null;
}
