/** Registers the focus widget with ComfyUI: the value, the prompt, the graph's undo, the server's words and live attention. */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { FocusHost } from "./focus_host.mjs";
import { textsFor } from "./focus_text.mjs";

const hosts = new Set();

function hostOf(node) {
  return [...hosts].find((host) => host.node === node);
}

/** The style sheet, to lie inside a widget: the page's head belongs to everybody. */
function styleSheet() {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = new URL("./focus_widget.css", import.meta.url);
  return style;
}

app.registerExtension({
  name: "GroundedDreamer.Focus",

  async init() {
    api.addEventListener("grounded_dreamer.attention", ({ detail }) => {
      for (const host of hosts) host.receive(detail);
    });
  },

  getCustomWidgets() {
    return {
      GD_FOCUS(node, inputName, inputData) {
        const text = textsFor(app.extensionManager?.setting?.get?.("Comfy.Locale") ?? "en");
        const host = new FocusHost({ app, api, node, inputName, text, value: inputData?.[1]?.default ?? "" });
        host.focus.element.prepend(styleSheet());
        hosts.add(host);
        host.onGone = () => hosts.delete(host);
        return { widget: host.widget, minWidth: 420, minHeight: 440 };
      },
    };
  },

  // After a workflow, an undo or a page reload has put ids, prompt and weights in place.
  loadedGraphNode(node) {
    hostOf(node)?.restore();
  },
});
