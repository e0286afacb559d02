/** Registers the pack's part of the page: the focus widget, its seats on subgraph nodes, file name prefixes, slot colours. */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { applyTextReplacements } from "../../scripts/utils.js";
import { FocusHost, chain, remember } from "./focus_host.mjs";
import { nodeAt, pathTo } from "./focus_graph.mjs";
import { FocusSeats } from "./focus_seats.mjs";
import { textsFor } from "./focus_text.mjs";
import { VerdictStrip, decodeVerdicts } from "./verdict_strip.mjs";

/** What stands upstream of a node changes without a word to it. */
const LOOK_AGAIN_MS = 700;

/** Colours of our links and slots, apart from one another and from core's. */
const SLOT_COLOURS = {
  GD_MODEL: "#b39ddb",
  GD_PROMPT: "#f2a33a",
  GD_VIEWS: "#4fc3f7",
  GD_FIELD: "#81c784",
  GD_SCORES: "#e57399",
};

const hosts = new Set();

/** Strips by their sampler nodes. */
const strips = new Map();

/** What they last showed, by workflow and node: undo and workflow tabs rebuild all nodes. */
const lastTold = new Map();
const MAX_TOLD = 32;

function localText() {
  return textsFor(app.extensionManager?.setting?.get?.("Comfy.Locale") ?? "en");
}

/** A sampler's own strip of verdicts; it shows what was told live, and what the node's last result says. */
function addStrip(node) {
  const strip = new VerdictStrip({ text: localText(), onResize: () => node.setDirtyCanvas?.(true, true) });
  strip.element.prepend(styleSheet());
  const widget = node.addDOMWidget("verdicts", "GD_VERDICTS", strip.element, {
    getMinHeight: () => strip.height,
    getMaxHeight: () => strip.height,
    hideOnZoom: true,
    hideInPanel: true,
    serialize: false,
  });
  widget.serialize = false;
  strips.set(node, strip);
  chain(node, "onExecuted", (output) => showResult(node, output));
  chain(widget, "onRemove", () => strips.delete(node));
}

function rootGraph() {
  return app.rootGraph ?? app.graph;
}

function toldKey(workflow, node) {
  return JSON.stringify([workflow, node]);
}

function tellStrip(payload) {
  const told = decodeVerdicts(payload);
  if (!told) return;
  const here = rootGraph()?.id ?? null;
  remember(lastTold, toldKey(told.workflow ?? here, told.node), told, MAX_TOLD);
  if (told.workflow === null || told.workflow === here) strips.get(nodeAt(rootGraph(), told.node))?.show(told);
}

/** A finished sampler's own result, the last of its batch. */
function showResult(node, output) {
  const told = Array.isArray(output?.gd_verdicts) ? decodeVerdicts(output.gd_verdicts.at(-1)) : null;
  if (!told || !strips.has(node)) return;
  remember(lastTold, keyOf(node), told, MAX_TOLD);
  strips.get(node).show(told);
}

function keyOf(node) {
  const path = pathTo(rootGraph(), node) ?? [String(node.id)];
  return toldKey(rootGraph()?.id ?? null, path.join(":"));
}

function addHost(options) {
  const text = localText();
  const host = new FocusHost({ app, api, text, ...options });
  host.focus.element.prepend(styleSheet());
  hosts.add(host);
  host.onGone = () => {
    hosts.delete(host);
    host.seats?.gone();
  };
  return host;
}

/** The style sheet, to lie inside a widget: the page's head belongs to everybody. */
function styleSheet() {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = new URL("./focus_widget.css", import.meta.url);
  return style;
}

/** A palette that does not know a type empties its colour whenever it is loaded: keep ours until one names another. */
function keepColour(table, type, colour) {
  let shown = table[type] || colour;
  const set = (next) => (shown = next || colour);
  Object.defineProperty(table, type, { get: () => shown, set, enumerable: true, configurable: true });
}

function lookAgain() {
  for (const host of hosts) host.refresh();
  // The slots of Nodes 2.0 take their colours from these, and a palette removes those of types that it does not know.
  const { style } = document.documentElement;
  for (const [type, colour] of Object.entries(SLOT_COLOURS)) {
    if (!style.getPropertyValue(`--color-datatype-${type}`)) style.setProperty(`--color-datatype-${type}`, colour);
  }
}

app.registerExtension({
  name: "GroundedDreamer.Focus",

  async init() {
    api.addEventListener("grounded_dreamer.attention", ({ detail }) => {
      for (const host of hosts) host.receive(detail);
    });
    api.addEventListener("grounded_dreamer.verdicts", ({ detail }) => tellStrip(detail));
    setInterval(() => document.hidden || lookAgain(), LOOK_AGAIN_MS);
  },

  setup() {
    const { canvas } = app;
    for (const table of [canvas?.default_connection_color_byType, canvas?.constructor?.link_type_colors]) {
      if (table) for (const [type, colour] of Object.entries(SLOT_COLOURS)) keepColour(table, type, colour);
    }
  },

  getCustomWidgets() {
    return {
      GD_FOCUS(node, inputName, inputData) {
        const host = addHost({ node, inputName, value: inputData?.[1]?.default ?? "" });
        host.seats = new FocusSeats(host, (seat) => addHost({ node, inputName, seat }));
        return { widget: host.widget, minWidth: 420, minHeight: 440 };
      },
    };
  },

  // As core does for its own nodes that save files: %date:yyyy-MM-dd% and %Node.widget%.
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("GroundedDreamer")) return;
    if (node.comfyClass === "GroundedDreamerSampleViews") addStrip(node);
    const prefix = node.widgets?.find(({ name }) => name === "filename_prefix");
    if (prefix) prefix.serializeValue = () => applyTextReplacements(app, prefix.value);
  },

  // After a workflow, an undo or a page reload has put ids, prompt and weights in place.
  loadedGraphNode(node) {
    const told = strips.has(node) && lastTold.get(keyOf(node));
    if (told) strips.get(node).show(told);
    for (const host of hosts) {
      if (host.node === node && !host.seat) host.restore();
      host.seats?.soon();
    }
  },

  // Results that the page gets back: of another workflow tab, or of a job that was opened from the queue.
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs ?? {})) {
      const node = nodeAt(rootGraph(), id);
      if (node) showResult(node, output);
    }
  },
});
