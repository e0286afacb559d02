/**
 * As much of ComfyUI's page as the widget meets: `app`, `api`, a node with widgets, DOM widgets, and undo that rebuilds the
 * node (frontend 1.49: scripts/domWidget.ts, scripts/changeTracker.ts). The server's routes answer from `server`.
 */
export const api = Object.assign(new EventTarget(), {
  async fetchApi(route, options) {
    const body = JSON.parse(options.body);
    server.requests.push({ route, body });
    const answer = server.answers[route];
    if (!answer) throw new TypeError("the server is away");
    return new Response(JSON.stringify(await answer(body)), { status: 200 });
  },
});

/** Words are cut by the real code; the other routes answer what a test says. */
export const server = { requests: [], answers: { "/grounded_dreamer/words": (body) => window.wordsOnTheServer(body) } };

export function applyTextReplacements(_, text) {
  return text.replaceAll("%date:yyyy%", "2026");
}

const extensions = [];
const history = { undo: [], active: null };

export const app = {
  registerExtension: (extension) => extensions.push(extension),
  extensionManager: { setting: { get: () => document.documentElement.lang || "en" } },
  graph: {
    id: "w1",
    nodes: [],
    getNodeById: (id) => app.graph.nodes.find((node) => node.id === id),
    beforeChange() {},
    afterChange() {},
  },
  canvas: { emitBeforeChange() {}, emitAfterChange: () => capture() },
};

function state() {
  return JSON.stringify(app.graph.nodes.map((node) => [node.id, node.widgets.map((widget) => widget.value)]));
}

function capture() {
  const now = state();
  if (now === history.active) return;
  if (history.active !== null) history.undo.push(history.active);
  history.active = now;
}

export function undoSteps() {
  return history.undo.length;
}

/**
 * As ComfyUI does it: every node is made anew from the stored state. Nodes 2.0 of frontend 1.58 keeps the old node's elements
 * on the page (`keepsElements`).
 */
export function undo({ keepsElements = false } = {}) {
  const earlier = history.undo.pop();
  if (!earlier) return;
  history.active = earlier;
  for (const node of app.graph.nodes) node.remove({ keepsElements });
  app.graph.nodes = [];
  for (const [id, [prompt, focus]] of JSON.parse(earlier)) addNode({ id, prompt, focus });
}

class Node {
  constructor(id) {
    this.id = id;
    this.graph = app.graph;
    this.size = [420, 520];
    this.inputs = [];
    this.element = document.createElement("section");
    this.element.className = "node";
    const area = document.createElement("textarea");
    area.className = "prompt";
    const prompt = {
      name: "prompt",
      get value() {
        return area.value;
      },
      set value(text) {
        area.value = text;
        this.callback?.(text);
      },
    };
    prompt.type = "customtext";
    area.addEventListener("input", () => (prompt.value = area.value));
    this.widgets = [prompt];
    this.element.append(area);
    document.body.append(this.element);
  }

  addDOMWidget(name, type, element, options) {
    const widget = {
      name,
      type,
      element,
      options,
      onRemove() {},
      get value() {
        return options.getValue();
      },
      set value(value) {
        options.setValue(value);
        this.callback?.(value);
      },
    };
    this.widgets.push(widget);
    const slot = document.createElement("div");
    slot.className = "slot";
    if (!document.querySelector(".node .slot")) slot.append(element);
    this.element.append(slot);
    return widget;
  }

  setDirtyCanvas() {}

  remove({ keepsElements = false } = {}) {
    for (const widget of this.widgets) widget.onRemove?.();
    if (!keepsElements) this.element.remove();
  }
}

export function addNode({ id = 5, prompt = "", focus = "" } = {}) {
  const node = new Node(id);
  for (const extension of extensions) {
    const { widget } = extension.getCustomWidgets().GD_FOCUS(node, "focus", ["GD_FOCUS", { default: "" }]);
    node.inputs.push(
      { name: "focus", link: null, widget: { name: "focus" } },
      { name: "prompt", link: null, widget: { name: "prompt" } },
    );
    node.widgets[0].value = prompt;
    widget.value = focus;
  }
  app.graph.nodes.push(node);
  capture();
  for (const extension of extensions) extension.loadedGraphNode?.(node);
  return node;
}

/** A sampler node, which gets its strip of verdicts when it is created. */
export function addSampler({ id = 9 } = {}) {
  const node = new Node(id);
  node.comfyClass = "GroundedDreamerSampleViews";
  for (const extension of extensions) extension.nodeCreated?.(node);
  app.graph.nodes.push(node);
  for (const extension of extensions) extension.loadedGraphNode?.(node);
  return node;
}

/** As undo does: all nodes go, and come again with the same ids. */
export function rebuildSamplers() {
  for (const node of app.graph.nodes.splice(0)) {
    node.remove();
    addSampler({ id: node.id });
  }
}

/** As a workflow tab does that is opened again. */
export function giveBackOutputs(outputs) {
  for (const extension of extensions) extension.onNodeOutputsUpdated?.(outputs);
}

export function sendVerdicts(payload) {
  api.dispatchEvent(new CustomEvent("grounded_dreamer.verdicts", { detail: payload }));
}

export function exampleVerdicts(changes = {}) {
  const said = (...probabilities) =>
    probabilities.map((probability, index) => ({
      name: ["red cube", "blue <b>sphere</b>"][index],
      word: probability >= 0.7 ? "there" : probability < 0.4 ? "missing" : "doubtful",
      probability,
      views: [],
    }));
  return {
    v: 1,
    workflow: "w1",
    node: "9",
    winner: "1000000",
    verdicts: said(0.98, 0.2),
    candidates: [
      { seed: "0", score: -1.2, verdicts: said(0.5, 0.6), views: drawView(0) },
      { seed: "1000000", score: -0.1, verdicts: said(0.98, 0.9), views: "https://elsewhere.test/x.png" },
    ],
    ...changes,
  };
}

export async function start() {
  for (const extension of extensions) await extension.init?.();
}

export function send(payload) {
  api.dispatchEvent(new CustomEvent("grounded_dreamer.attention", { detail: payload }));
}

/** A run as the server tells it: views drawn here, maps with one warm spot a word and view. */
export function examplePayload(changes = {}) {
  const size = 16;
  const spots = { cube: [0.3, 0.55, 1], sphere: [0.7, 0.55, 1], red: [0.35, 0.5, 0.5], blue: [0.65, 0.6, 0.4] };
  const words = Object.entries(spots).map(([word, [x, y, strength]], index) => ({
    word,
    occurrence: 0,
    attention: [0.83, 0.41, 0.22, 0.3][index],
    scale: 0.03 * strength,
    map: btoa(String.fromCharCode(...warmSpots(size, x, y))),
  }));
  return {
    v: 1,
    run: "r1",
    node: "5",
    sampler: "9",
    prompt: "a red cube next to a blue sphere",
    state: "running",
    step: 9,
    total: 30,
    threshold: 0.5,
    workflow: "w1",
    words,
    map_size: [size, size],
    views: [0, 1, 2, 3].map((view) => drawView(view)),
    ...changes,
  };
}

function spotAt(view, x) {
  return 0.5 + (x - 0.5) * [1, 0.35, -1, -0.35][view];
}

function warmSpots(size, x, y) {
  const cells = [];
  for (let view = 0; view < 4; view++) {
    for (let row = 0; row < size; row++) {
      for (let column = 0; column < size; column++) {
        const dx = (column + 0.5) / size - spotAt(view, x);
        const dy = (row + 0.5) / size - y;
        cells.push(Math.round(20 + 235 * Math.exp(-(dx * dx + dy * dy) / 0.02)));
      }
    }
  }
  return cells;
}

function drawView(view) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 128;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#f6f6f6";
  pen.fillRect(0, 0, 128, 128);
  pen.fillStyle = "#c8352b";
  pen.fillRect(spotAt(view, 0.3) * 128 - 20, 50, 40, 40);
  pen.fillStyle = "#2f55c8";
  pen.beginPath();
  pen.arc(spotAt(view, 0.7) * 128, 70, 22, 0, 7);
  pen.fill();
  return canvas.toDataURL("image/jpeg", 0.9);
}
