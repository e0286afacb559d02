"""Pictures of the example graphs on ComfyUI's own page, after a run: `python -m tools.screenshots [NAME ...]`.

Starts a server from `COMFY_DIR` with `COMFY_PYTHON`, opens each graph in Chromium, runs it there and takes the picture.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.web.conftest import FLAGS, chromium
from tools import comfyui, workflows

FOLDER = Path(__file__).parents[1] / "docs/images"
WINDOW = {"width": 2400, "height": 1300}
SETTINGS = {
    "Comfy.VueNodes.Enabled": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Graph.CanvasMenu": False,
}
BOX_OF = """types => {
  const nodes = app.graph.nodes.filter(node => !types.length || types.includes(node.type)).map(node => node.getBounding());
  const left = Math.min(...nodes.map(b => b[0])), top = Math.min(...nodes.map(b => b[1]));
  return [left, top, Math.max(...nodes.map(b => b[0] + b[2])) - left, Math.max(...nodes.map(b => b[1] + b[3])) - top];
}"""
LOOK = """([left, top, scale, x, y]) => {
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [x / scale - left, y / scale - top];
  app.canvas.setDirty(true, true);
}"""
CORNER = 110, 130  # pixels from the window's corner: the page's own bars lie there
MARGIN = 12  # pixels around what is shown


def take(page: Page, *node_types: str, scale: float, over: str = "") -> Image.Image:
    """The nodes of these types, or all of them, at `scale` pixels a unit of the graph; the pointer `over` an element."""
    page.mouse.move(WINDOW["width"] / 2, WINDOW["height"] - 2)  # off all nodes, or a tooltip comes up
    left, top, width, height = page.evaluate(BOX_OF, node_types)
    page.evaluate(LOOK, [left, top, scale, *CORNER])
    page.wait_for_timeout(5000)  # nodes come in, the viewer draws
    if over:
        page.locator(over).first.hover()
        page.wait_for_timeout(1000)
    x, y = (value - MARGIN for value in CORNER)
    clip = {"x": x, "y": y, "width": width * scale + 2 * MARGIN, "height": height * scale + 2 * MARGIN}
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def quick_start(page: Page) -> dict[str, Image.Image]:
    """The graph, whole, and its focus widget with a heat map."""
    whole = take(page, scale=0.6)
    return {"comfyui_graph": whole, "focus_widget": take(page, "GroundedDreamerFocusPrompt", scale=1.5, over=".gd-focused")}


def parts(page: Page) -> dict[str, Image.Image]:
    """The parts in core's 3D preview, and what is made of them."""
    types = "GroundedDreamerExportMesh", "CreateCameraInfo", "Preview3DAdvanced", "GroundedDreamerTurntable", "PreviewImage"
    return {"parts": take(page, *types, scale=0.6)}


SHOTS: dict[str, Callable[[Page], dict[str, Image.Image]]] = {"1_quick_start": quick_start, "8_parts_by_word": parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*SHOTS, []], help="example workflows; all that are shown without")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the pictures (default: the documentation's)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as base,
        comfyui.running(Path(base), api_nodes=True) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium(), args=[*FLAGS, "--enable-unsafe-swiftshader"])
        page = browser.new_context(viewport=WINDOW).new_page()
        page.set_default_timeout(900_000)
        page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(url) else route.abort())
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_function("() => window.app?.graph && window.app.canvas && window.app.extensionManager")
        for name, setting in SETTINGS.items():
            page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [name, setting])
        for name in options.names or SHOTS:
            page.evaluate("graph => app.loadGraphData(graph)", workflows.load(name))
            page.wait_for_timeout(3000)
            ended, detail = page.evaluate(comfyui.RUN_ON_PAGE)
            if ended != "execution_success":
                raise RuntimeError(f"{name}: {ended}: {str(detail)[:500]}")
            for file, picture in SHOTS[name](page).items():
                picture.save(options.out / f"{file}.jpg", quality=85)
        browser.close()


if __name__ == "__main__":
    main()
