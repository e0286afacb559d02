/**
 * One focus widget inside one node: everything that touches ComfyUI, through its public ways only (DOM widget, widget
 * callbacks, `onExecuted`, `onConnectionsChange`, the canvas's change events, `api.fetchApi`).
 */
import { decodeAttention } from "./attention_strip.mjs";
import { keyOf, promptWords } from "./focus_state.mjs";
import { FocusWidget } from "./focus_widget.mjs";

const WORDS_DELAY_MS = 250;
const CHIPS_HEIGHT = 66;
const CHROME_HEIGHT = 96;
const VIEW_MAX = 192;

/** The newest run of each FocusPrompt node: undo and workflow tabs rebuild all nodes, and the strip must survive that. */
const runs = new Map();
/** What the server said of a prompt's words. */
const serverWords = new Map();
/** Which chip had the keyboard when its node was rebuilt (Ctrl+Z on a chip). */
let keyboard = { node: "", key: "", at: -Infinity };
/** The elements of removed nodes: frontend 1.58 leaves them on the page when Nodes 2.0 rebuilds a node of the same id. */
const leftOver = new Map();
const ADOPT_AFTER_MS = [50, 300, 1000];

export class FocusHost {
  constructor({ app, api, node, inputName, text, value }) {
    Object.assign(this, { app, api, node, inputName });
    this.executedPrompt = null;
    this.wordsTimer = 0;
    this.focus = new FocusWidget({
      text,
      onInput: () => this.widget.callback?.(this.focus.value),
      onCommit: () => this.commit(),
    });
    this.focus.setValue(value);
    this.widget = node.addDOMWidget(inputName, "GD_FOCUS", this.focus.element, {
      getValue: () => this.focus.value,
      setValue: (next) => this.focus.setValue(typeof next === "string" ? next : JSON.stringify(next ?? "")),
      getMinHeight: () => this.minHeight(),
      // Below this zoom ComfyUI draws placeholders instead of DOM widgets.
      hideOnZoom: true,
    });
    this.follow();
    this.refresh();
  }

  minHeight() {
    const view = Math.min(VIEW_MAX, ((this.node.size?.[0] ?? 420) - 62) / 4);
    return Math.round(CHROME_HEIGHT + CHIPS_HEIGHT + view);
  }

  /** Be told when the prompt, a link or a result changes. */
  follow() {
    const { node, widget } = this;
    chain(this.promptWidget(), "callback", () => this.refresh());
    chain(node, "onConnectionsChange", () => this.refresh());
    chain(node, "onConfigure", () => this.refresh());
    chain(node, "onExecuted", (output) => {
      this.executedPrompt = output?.gd_prompt?.[0] ?? this.executedPrompt;
      this.refresh();
    });
    chain(widget, "onRemove", () => this.gone());
    // Scripts may write a widget's value without its callback.
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

  promptWidget() {
    return this.node.widgets?.find((widget) => widget.name === "prompt");
  }

  isLinked(name) {
    const input = this.node.inputs?.find((slot) => slot.widget?.name === name || slot.name === name);
    return input?.link != null;
  }

  refresh() {
    const typed = this.promptWidget()?.value;
    const prompt = this.isLinked("prompt") ? this.executedPrompt : String(typed ?? "");
    this.focus.setLocked(this.isLinked(this.inputName));
    if (prompt === this.focus.prompt) return;
    this.focus.setPrompt(prompt);
    clearTimeout(this.wordsTimer);
    if (!prompt?.trim()) return;
    if (serverWords.has(prompt)) this.focus.setWords(serverWords.get(prompt));
    else this.wordsTimer = setTimeout(() => this.askWords(prompt), WORDS_DELAY_MS);
  }

  /** The server's cut of the prompt; the local rule stands when there is none. */
  async askWords(prompt) {
    const answer = await this.post("/grounded_dreamer/words", { prompt });
    if (!Array.isArray(answer?.words)) return;
    const local = promptWords(prompt);
    const words = answer.words
      .filter((item) => typeof item?.word === "string")
      .map(({ word, occurrence = 0, subject = false }, index) => {
        const label = local[index]?.word === word ? local[index].label : word;
        return { word, occurrence, key: keyOf(word, occurrence), label, subject: Boolean(subject) };
      });
    if (serverWords.size > 100) serverWords.clear();
    serverWords.set(prompt, words);
    if (prompt === this.focus.prompt) this.focus.setWords(words);
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

  /** One step of the graph's own undo. */
  commit() {
    const { canvas } = this.app;
    canvas?.emitBeforeChange?.();
    this.node.graph?.beforeChange?.();
    this.node.graph?.afterChange?.();
    canvas?.emitAfterChange?.();
    this.node.setDirtyCanvas?.(true, true);
  }

  // ---- attention

  /** A live event; it may be meant for another node, or for the node of this id in another workflow. */
  receive(payload) {
    const id = String(payload?.node ?? "");
    if (this.nodeAt(id) !== this.node) return;
    const run = decodeAttention(payload, runs.get(id));
    if (!run || !this.belongs(run)) return;
    runs.set(id, run);
    this.focus.setAttention(run);
  }

  /** Whether a run is of these words; an edited prompt keeps its strip as long as half of the words are still there. */
  belongs(run) {
    if (this.focus.prompt === null || run.prompt === this.focus.prompt.trim()) return true;
    const keys = new Set(this.focus.words.map((word) => word.key));
    const shared = [...run.words.keys()].filter((key) => keys.has(key)).length;
    return run.words.size > 0 && shared * 2 >= run.words.size;
  }

  /** After a load: the last run of this node, from this page's memory or from the server. */
  async restore() {
    this.refresh();
    const id = (this.knownId = this.executionId());
    const held = keyboard.node === id && performance.now() - keyboard.at < 3000 ? keyboard.key : "";
    for (const delay of ADOPT_AFTER_MS) setTimeout(() => this.settleIn(id, held), delay);
    const known = runs.get(id);
    if (known && this.belongs(known)) return this.focus.setAttention(known);
    const run = decodeAttention(
      await this.post("/grounded_dreamer/attention", { node: id, prompt: this.focus.prompt?.trim() ?? null }),
    );
    if (!run || this.focus.attention || !this.belongs(run)) return;
    runs.set(id, run);
    this.focus.setAttention(run);
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

  /** "5", or "12:5" for node 5 in the subgraph of node 12: how the server names a node. */
  executionId() {
    const path = pathTo(this.rootGraph(), this.node);
    return path ? path.join(":") : String(this.node.id);
  }

  nodeAt(executionId) {
    let graph = this.rootGraph();
    let node = null;
    for (const id of executionId.split(":")) {
      node = graph?.getNodeById?.(Number.isNaN(Number(id)) ? id : Number(id)) ?? null;
      graph = node?.subgraph;
    }
    return node;
  }
}

function pathTo(graph, node) {
  if (!graph) return null;
  if (node.graph === graph) return [String(node.id)];
  for (const outer of graph.nodes ?? []) {
    const inner = outer.subgraph ? pathTo(outer.subgraph, node) : null;
    if (inner) return [String(outer.id), ...inner];
  }
  return null;
}

/** Call `after` behind whatever callback an object already has. */
function chain(owner, name, after) {
  if (!owner) return;
  const before = owner[name];
  owner[name] = function (...args) {
    const result = before?.apply(this, args);
    after(...args);
    return result;
  };
}
