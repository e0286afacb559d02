/**
 * Hands on the chips: click, double click, drag, wheel and keys, for one container of chips (elements with `data-key`).
 *
 * While a gesture lasts the weight follows it live; `commit` is called once at its end, so that one gesture is one step of
 * undo.
 */
import { WEIGHT_MAX } from "./focus_state.mjs";

const DRAG_START_PX = 4;
const DRAG_PX_PER_WEIGHT = 60;
const WHEEL_STEP = 0.1;
const WHEEL_REST_MS = 350;
const KEY_STEP = { ArrowUp: 0.1, ArrowDown: -0.1, PageUp: 0.5, PageDown: -0.5 };

/** When the wheel last turned elsewhere: a canvas zoom that slides a chip under the pointer is no wish to change it. */
let foreignWheelAt = -Infinity;
const turnedElsewhere = (event) => event.timeStamp - foreignWheelAt < WHEEL_REST_MS;
window.addEventListener(
  "wheel",
  (event) => {
    if (!event.target.closest?.("[data-gd-chips] [data-key]") || turnedElsewhere(event)) foreignWheelAt = event.timeStamp;
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
    this.wheelTimer = 0;
    this.onWheel = (event) => this.wheel(event);

    const on = (type, handler) => container.addEventListener(type, handler);
    on("pointerdown", (event) => this.pointerDown(event));
    on("pointermove", (event) => this.pointerMove(event));
    on("pointerup", () => this.endDrag());
    on("lostpointercapture", () => this.endDrag());
    on("pointercancel", () => this.cancelDrag());
    on("click", (event) => this.click(event));
    on("keydown", (event) => this.keyDown(event));
    on("keyup", () => this.settle());
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
    clearTimeout(this.wheelTimer);
  }

  releaseWheel() {
    window.removeEventListener("wheel", this.onWheel, { capture: true });
  }

  /** Write the change of an ongoing gesture into the undo history. */
  settle() {
    clearTimeout(this.wheelTimer);
    if (!this.uncommitted || this.drag) return;
    this.uncommitted = false;
    this.target.commit();
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

  click(event) {
    const chip = chipOf(event);
    if (!chip || this.target.locked()) return;
    if (this.swallowClick) {
      this.swallowClick = false;
      return;
    }
    const { key } = chip.dataset;
    // A chip that loses its weight must not shrink away from under a double click.
    chip.style.minWidth = `${chip.offsetWidth}px`;
    if (event.target.closest("button")) this.reset(chip);
    else if (event.detail <= 1) this.target.toggle(key);
    else if (event.detail === 2) this.target.reset(key);
    else return;
    this.uncommitted = true;
    this.settle();
  }

  wheel(event) {
    const chip = chipOf(event);
    if (!chip || !this.container.contains(chip) || !event.deltaY || turnedElsewhere(event)) return;
    // With Ctrl the wheel always zooms the canvas.
    if (event.ctrlKey || event.metaKey || this.target.locked()) return;
    event.preventDefault();
    event.stopPropagation();
    const { key } = chip.dataset;
    this.change(key, this.target.weightOf(key) + (event.deltaY < 0 ? WHEEL_STEP : -WHEEL_STEP));
    clearTimeout(this.wheelTimer);
    this.wheelTimer = setTimeout(() => this.settle(), WHEEL_REST_MS);
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
    else if (key in KEY_STEP) this.change(chip.dataset.key, this.target.weightOf(chip.dataset.key) + KEY_STEP[key]);
    else if (key === "Enter" || key === " ") {
      if (!repeat) this.target.toggle(chip.dataset.key);
      this.uncommitted = true;
    } else if (key === "Delete" || key === "Backspace") this.reset(chip);
    else return false;
    return true;
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
