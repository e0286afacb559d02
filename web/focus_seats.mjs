/**
 * Chips on a subgraph node that the `focus` input of a Focus Prompt inside is promoted to.
 *
 * ComfyUI shows a promoted widget by its value alone: one with an element of its own becomes an empty row. So the subgraph
 * node gets chips of its own that read and write the promoted value, and the empty row goes.
 */
import { FocusHost, chain } from "./focus_host.mjs";
import { hostsOf, inputSlot, widgetOf } from "./focus_graph.mjs";

const MIN_WIDTH = 420;

export class FocusSeats {
  /** @param {FocusHost} inner the host inside the subgraph; `make(seat)` makes a host for a seat */
  constructor(inner, make) {
    this.inner = inner;
    this.make = make;
    this.seats = new Map();
    this.heard = new Set();
    chain(inner.node, "onAdded", () => this.soon());
    this.soon();
  }

  /** After the change that is under way: nodes are configured, cloned and connected in many small steps. */
  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.settle(), 0);
  }

  settle() {
    const wanted = this.inner.isGone ? [] : this.promotions(this.inner.node, this.inner.inputName);
    for (const [node, host] of this.seats) {
      if (!wanted.some((seat) => seat.node === node)) this.leave(node, host);
    }
    for (const seat of wanted) {
      if (this.seats.has(seat.node)) continue;
      this.seats.set(seat.node, this.make(seat));
      if (seat.node.size?.[0] < MIN_WIDTH) seat.node.setSize?.([MIN_WIDTH, seat.node.size[1]]);
    }
  }

  leave(node, host) {
    this.seats.delete(node);
    host.gone();
    if (node.graph && node.widgets?.includes(host.widget)) node.removeWidget(host.widget);
  }

  gone() {
    clearTimeout(this.timer);
    for (const [node, host] of this.seats) this.leave(node, host);
  }

  /** Seats for an input of a node: on each subgraph node around it, or further out where that one is promoted again. */
  promotions(node, name, inside = []) {
    const { graph } = node;
    if (!graph?.inputNode) return [];
    this.hear(graph);
    const link = inputSlot(node, name)?.link;
    const slot = link == null ? null : graph.inputNode.slots.find(({ linkIds }) => linkIds?.includes(link));
    if (!slot) return [];
    return hostsOf(this.inner.rootGraph(), graph).flatMap((host) => {
      const chain = [host, ...inside];
      const further = this.promotions(host, slot.name, chain);
      return further.length ? further : [this.seat(host, slot.name, chain)];
    });
  }

  seat(node, name, chain) {
    const promoted = () => node.widgets?.find((widget) => widget.name === name && !widget.element) ?? widgetOf(node, name);
    return {
      node,
      name,
      chain,
      promoted,
      read(focus) {
        const widget = promoted();
        hide(widget); // ComfyUI makes it anew now and then
        const value = widget?.value;
        if (typeof value === "string" && value !== focus.value) focus.setValue(value);
      },
      write(value) {
        const widget = promoted();
        if (!widget) return;
        widget.value = value;
        widget.callback?.(value);
      },
    };
  }

  hear(graph) {
    if (this.heard.has(graph) || !graph.events) return;
    this.heard.add(graph);
    for (const type of ["widget-promoted", "widget-demoted", "removing-input", "input-added"]) {
      graph.events.addEventListener(type, () => this.soon());
    }
  }
}

function hide(widget) {
  if (!widget) return;
  widget.hidden = true;
  if (widget.options) widget.options.hidden = true;
}
