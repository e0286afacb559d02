/**
 * Ways through ComfyUI's graphs: where an input's value comes from, which model samples a prompt, how the server names a node.
 *
 * `hostOf(graph)` names the subgraph node through which a subgraph is entered: one subgraph may stand in several places.
 */
const LOADER = "GroundedDreamerLoadMVDream";
const TEXT_WIDGETS = new Set(["text", "string", "customtext", "textarea"]);
const MAX_HOPS = 32;

/** The slot of an input, or undefined. */
export function inputSlot(node, name) {
  return node?.inputs?.find((slot) => slot.widget?.name === name || slot.name === name);
}

export function widgetOf(node, name) {
  return node?.widgets?.find((widget) => widget.name === name);
}

/** Nodes, in any graph below `root`, that hold `graph` as their subgraph. */
export function hostsOf(root, graph, seen = new Set()) {
  if (!root || seen.has(root)) return [];
  seen.add(root);
  return (root.nodes ?? []).flatMap((node) => {
    if (!node.subgraph) return [];
    return [...(node.subgraph === graph ? [node] : []), ...hostsOf(node.subgraph, graph, seen)];
  });
}

/**
 * What feeds an input, through reroutes and out of subgraphs.
 * @returns {{node: object, widget?: object} | null} a widget where the value is typed, else the node whose output it is
 */
export function sourceOf(node, slot, hostOf, hops = 0) {
  if (!slot || hops > MAX_HOPS) return null;
  if (slot.link == null) {
    const widget = widgetOf(node, slot.widget?.name ?? slot.name);
    return widget ? { node, widget } : null;
  }
  const { graph } = node;
  const link = graph?.getLink?.(slot.link) ?? graph?.links?.[slot.link];
  if (!link) return null;
  if (graph.inputNode && String(link.origin_id) === String(graph.inputNode.id)) {
    const host = hostOf(graph);
    return host ? sourceOf(host, inputSlot(host, graph.inputNode.slots[link.origin_slot]?.name), hostOf, hops + 1) : null;
  }
  const origin = graph.getNodeById(link.origin_id);
  if (origin?.type === "Reroute") return sourceOf(origin, origin.inputs?.[0], hostOf, hops + 1);
  return origin ? { node: origin } : null;
}

/** A text that an input will get, or null where only the run will tell: a node that computes, several texts, a combo. */
export function textOf(node, name, hostOf) {
  const found = sourceOf(node, inputSlot(node, name), hostOf);
  if (!found) return null;
  if (found.widget) return String(found.widget.value ?? "");
  if (found.node.inputs?.some((slot) => slot.link != null)) return null;
  const texts = found.node.widgets?.filter(({ type, value }) => TEXT_WIDGETS.has(type) && typeof value === "string") ?? [];
  return texts.length === 1 ? texts[0].value : null;
}

/** What the Load MVDream node says that serves the sampler behind a Focus Prompt node; null where none is found. */
export function modelOf(node, hostOf) {
  for (const output of node.outputs ?? []) {
    if (output.type !== "GD_PROMPT") continue;
    for (const id of output.links ?? []) {
      const link = node.graph?.getLink?.(id) ?? node.graph?.links?.[id];
      const model = link && loaderBefore(node.graph.getNodeById(link.target_id), hostOf);
      if (model) return model;
    }
  }
  return null;
}

function loaderBefore(node, hostOf) {
  for (let hops = 0; node && hops < MAX_HOPS; hops++) {
    if (node.type === LOADER) {
      const source = sourceOf(node, inputSlot(node, "model"), hostOf);
      return typeof source?.widget?.value === "string" ? source.widget.value : null;
    }
    const slot = node.inputs?.find(({ type }) => type === "GD_MODEL");
    node = sourceOf(node, slot, hostOf)?.node;
  }
  return null;
}

/** Ids from the root graph down to a node, through the first subgraph node that leads there; null when it is in none. */
export function pathTo(graph, node) {
  if (!graph) return null;
  if (node.graph === graph) return [String(node.id)];
  for (const outer of graph.nodes ?? []) {
    const inner = outer.subgraph ? pathTo(outer.subgraph, node) : null;
    if (inner) return [String(outer.id), ...inner];
  }
  return null;
}

/** The node that the server calls "5", or "12:5" for node 5 in the subgraph of node 12. */
export function nodeAt(root, executionId) {
  let graph = root;
  let node = null;
  for (const id of executionId.split(":")) {
    node = graph?.getNodeById?.(Number.isNaN(Number(id)) ? id : Number(id)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}
