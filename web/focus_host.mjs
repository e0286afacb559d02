/**
 * One focus widget on one node: everything that touches ComfyUI, through its public ways only (DOM widget, widget callbacks,
 * `onExecuted`, `onConnectionsChange`, the canvas's change events, `api.fetchApi`).
 *
 * The node is the Focus Prompt itself, or a subgraph node that the `focus` input of one is promoted to (`focus_seats.mjs`).
 */
import { decodeAttention } from "./attention_strip.mjs";
import { hostsOf, inputSlot, modelOf, nodeAt, pathTo, sourceOf, textOf, widgetOf } from "./focus_graph.mjs";
import { readAnswer } from "./focus_state.mjs";
import { FocusWidget } from "./focus_widget.mjs";

const WORDS_DELAY_MS = 250;
const RETRY_MS = 3000;
const MAX_ANSWERS = 100;
const MAX_RUNS = 64;
const CHROME_HEIGHT = 112;
const CHIPS_HEIGHT = 62;
const CHIPS_MAX_HEIGHT = 260;
const VIEW_MAX = 192;

/** Runs by workflow, node and prompt: undo and workflow tabs rebuild all nodes, and the strip must survive that. */
const runs = new Map();
/** What the server said of a prompt's words, by prompt and model. */
const answers = new Map();
/** Which chip had the keyboard when its node was rebuilt (Ctrl+Z on a chip). */
let keyboard = { node: "", key: "", at: -Infinity };
/** The elements of removed nodes: frontend 1.58 leaves them on the page when Nodes 2.0 rebuilds a node of the same id. */
const leftOver = new Map();
const ADOPT_AFTER_MS = [50, 300, 1000];

export class FocusHost {
  /**
   * @param {object} of
   * @param of.node the Focus Prompt
   * @param of.seat where the widget sits when not on that node: `{node, chain, name}`, see `focus_seats.mjs`
   */
  constructor({ app, api, node, inputName, text, value = "", seat = null }) {
    Object.assign(this, { app, api, node, inputName, seat });
    this.executedPrompt = null;
    this.misleading = false;
    this.asked = "";
    this.askedAt = -Infinity;
    this.wordsTimer = 0;
    this.hostOf = (graph) =>
      seat?.chain.find(({ subgraph }) => subgraph === graph) ?? hostsOf(this.rootGraph(), graph)[0] ?? null;
    this.focus = new FocusWidget({
      text,
      onInput: (next) => this.input(next),
      onCommit: () => this.commit(),
      onResize: () => this.holder.setDirtyCanvas?.(true, true),
    });
    this.focus.setValue(value);
    this.widget = this.holder.addDOMWidget(seat ? `${seat.name} chips` : inputName, "GD_FOCUS", this.focus.element, {
      getValue: () => this.focus.value,
      setValue: (next) => this.focus.setValue(typeof next === "string" ? next : JSON.stringify(next ?? "")),
      getMinHeight: () => this.minHeight(),
      // Below this zoom ComfyUI draws placeholders instead of DOM widgets.
      hideOnZoom: true,
      // The properties panel would take the one element away from the node.
      hideInPanel: true,
      ...(seat && { serialize: false }),
    });
    this.follow();
    this.refresh();
  }

  /** The node that the widget sits on. */
  get holder() {
    return this.seat?.node ?? this.node;
  }

  minHeight() {
    const { chips, notice } = this.focus.height;
    const view = Math.min(VIEW_MAX, ((this.holder.size?.[0] ?? 420) - 62) / 4);
    const list = Math.min(CHIPS_MAX_HEIGHT, Math.max(CHIPS_HEIGHT, chips));
    return Math.round(CHROME_HEIGHT + list + (notice && notice + 8) + view);
  }

  /** Be told when the prompt, a link or a result changes. */
  follow() {
    const { node, widget } = this;
    if (!this.seat) {
      chain(widgetOf(node, "prompt"), "callback", () => this.refresh());
      chain(node, "onConfigure", () => this.refresh());
      chain(widget, "onRemove", () => this.gone());
    }
    chain(this.holder, "onConnectionsChange", () => this.refresh());
    chain(node, "onExecuted", (output) => this.executed(output?.gd_prompt?.[0]));
    // What stands upstream changes without a word to this node; scripts write values without callbacks.
    this.focus.element.addEventListener("pointerenter", () => this.refresh());
    this.focus.element.addEventListener("focusin", (event) => {
      this.refresh();
      keyboard = { node: this.executionId(), key: event.target.dataset?.key ?? "", at: performance.now() };
    });
    this.focus.element.addEventListener("keydown", () => (keyboard.at = performance.now()));
  }

  gone() {
    clearTimeout(this.wordsTimer);
    this.isGone = true;
    this.focus.destroy();
    const id = this.knownId ?? String(this.node.id);
    const { element } = this.focus;
    leftOver.set(id, element);
    setTimeout(() => leftOver.get(id) === element && leftOver.delete(id), 2 * Math.max(...ADOPT_AFTER_MS));
    this.onGone?.();
  }

  // ---- value

  input(next) {
    if (this.seat) this.seat.write(next);
    else this.widget.callback?.(next);
  }

  /** One step of the graph's own undo. */
  commit() {
    const { canvas } = this.app;
    canvas?.emitBeforeChange?.();
    this.holder.graph?.beforeChange?.();
    this.holder.graph?.afterChange?.();
    canvas?.emitAfterChange?.();
    this.holder.setDirtyCanvas?.(true, true);
  }

  // ---- the prompt's words

  /** The prompt as far as it is known; null while it comes from a node that only a run can read. */
  prompt() {
    const slot = inputSlot(this.node, "prompt");
    if (slot?.link == null) return String(widgetOf(this.node, "prompt")?.value ?? "");
    const upstream = textOf(this.node, "prompt", this.hostOf);
    return upstream === null || this.misleading ? this.executedPrompt : upstream;
  }

  executed(prompt) {
    if (typeof prompt !== "string") return;
    this.executedPrompt = prompt;
    // A text upstream that is not what arrived here is an ingredient, not the prompt.
    const upstream = textOf(this.node, "prompt", this.hostOf);
    if (upstream !== null && inputSlot(this.node, "prompt")?.link != null) this.misleading = upstream.trim() !== prompt.trim();
    this.refresh();
  }

  refresh() {
    if (this.isGone) return;
    if (this.seat) this.seat.read(this.focus);
    this.focus.setLocked(this.lockedBy());
    const prompt = this.prompt();
    if (!prompt?.trim()) {
      this.asked = "";
      clearTimeout(this.wordsTimer);
      return this.focus.setWaiting(prompt === null ? "linked" : "empty");
    }
    const model = modelOf(this.node, this.hostOf);
    const question = JSON.stringify([prompt, model]);
    if (question === this.asked) return;
    this.asked = question;
    clearTimeout(this.wordsTimer);
    if (answers.has(question)) this.answered(answers.get(question));
    else this.wordsTimer = setTimeout(() => this.askWords(question, { text: prompt, model }), WORDS_DELAY_MS);
  }

  lockedBy() {
    const slot = inputSlot(this.holder, this.seat?.name ?? this.inputName);
    if (slot?.link == null) return "";
    const source = sourceOf(this.holder, slot, this.hostOf);
    return source?.widget ? "lockedByGraph" : "lockedByNode";
  }

  /** The server's words; while it thinks, and when it cannot be reached, the last answer stays. */
  async askWords(question, body) {
    const answer = await this.post("/grounded_dreamer/words", body);
    if (!Array.isArray(answer?.words)) {
      if (this.asked !== question || this.isGone) return;
      if (!this.focus.answer.words.length) this.focus.setWaiting("unreachable");
      this.wordsTimer = setTimeout(() => this.askWords(question, body), RETRY_MS);
      return;
    }
    remember(answers, question, readAnswer(answer), MAX_ANSWERS);
    if (this.asked === question && !this.isGone) this.answered(answers.get(question));
  }

  answered(answer) {
    this.focus.setAnswer(answer);
    if (!this.focus.attention) this.recall(answer.clean);
  }

  async post(route, body) {
    try {
      const response = await this.api.fetchApi(route, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
      return response.ok ? await response.json() : null;
    } catch (error) {
      console.debug(`Grounded Dreamer: ${route} is not reachable`, error);
      return null;
    }
  }

  // ---- attention

  /** A live event; it may be meant for another node, or for the node of this id in another workflow. */
  receive(payload) {
    const id = String(payload?.node ?? "");
    if (!this.isCalled(id)) return;
    const workflow = this.workflowId();
    const other = payload.workflow !== null && payload.workflow !== undefined && payload.workflow !== workflow;
    const key = runKey(workflow, id, payload.prompt);
    const run = other ? null : decodeAttention(payload, runs.get(key));
    // A script's run names no workflow: then the prompt must be this one.
    if (!run || (run.workflow === null && run.prompt !== this.focus.answer.clean)) return;
    remember(runs, key, run, MAX_RUNS);
    this.focus.setAttention(run);
  }

  /** The run of this workflow, this node and this prompt, from this page's memory or from the server. */
  async recall(prompt) {
    const [node, workflow] = [this.executionId(), this.workflowId()];
    const key = runKey(workflow, node, prompt);
    if (this.recalled === key) return;
    this.recalled = key;
    const known = runs.get(key) ?? decodeAttention(await this.post("/grounded_dreamer/attention", { workflow, node, prompt }));
    if (!known || this.focus.attention || this.isGone || this.recalled !== key) return;
    remember(runs, runKey(workflow, node, known.prompt), known, MAX_RUNS);
    this.focus.setAttention(known);
    // After a reload the last run is all that knows a prompt from another node.
    if (prompt === null) {
      this.executedPrompt ??= known.prompt;
      this.refresh();
    }
  }

  /** After a load: what the node showed before. */
  restore() {
    const id = (this.knownId = this.executionId());
    const held = keyboard.node === id && performance.now() - keyboard.at < 3000 ? keyboard.key : "";
    for (const delay of ADOPT_AFTER_MS) setTimeout(() => this.settleIn(id, held), delay);
    this.asked = "";
    this.refresh();
    if (this.prompt() === null) this.recall(null);
  }

  /** Take the place of the removed node's widget if it is still on the page, and give the keyboard back to its chip. */
  settleIn(id, heldKey) {
    if (this.isGone) return;
    const { element } = this.focus;
    const old = leftOver.get(id);
    if (!element.isConnected && old?.isConnected) old.replaceWith(element);
    if (element.isConnected) leftOver.delete(id);
    if (heldKey && (document.activeElement === document.body || !document.activeElement)) this.focus.focusChip(heldKey);
  }

  rootGraph() {
    return this.app.rootGraph ?? this.app.graph;
  }

  workflowId() {
    return this.rootGraph()?.id ?? null;
  }

  /** "5", or "12:5" for node 5 in the subgraph of node 12: how the server names the Focus Prompt. */
  executionId() {
    const path = pathTo(this.rootGraph(), this.holder) ?? [String(this.holder.id)];
    return [...path, ...(this.seat?.chain.slice(1).map((node) => node.id) ?? []), ...(this.seat ? [this.node.id] : [])].join(":");
  }

  isCalled(executionId) {
    return this.seat ? executionId === this.executionId() : nodeAt(this.rootGraph(), executionId) === this.node;
  }
}

function runKey(workflow, node, prompt) {
  return JSON.stringify([workflow, node, prompt]);
}

/** Keep a value in a `Map` of at most `most`, the oldest of which goes. */
export function remember(memory, key, value, most) {
  memory.delete(key);
  memory.set(key, value);
  if (memory.size > most) memory.delete(memory.keys().next().value);
}

/** Call `after` behind whatever callback an object already has. */
export function chain(owner, name, after) {
  if (!owner) return;
  const before = owner[name];
  owner[name] = function (...args) {
    const result = before?.apply(this, args);
    after(...args);
    return result;
  };
}
