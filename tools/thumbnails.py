"""Thumbnails of the example graphs, from a run of each on a ComfyUI server: `python -m tools.thumbnails URL BASE [NAME ...]`.

URL is the server's address, BASE its base directory, where its results are read from. Full quality needs MVDream's weights
there; `--model` and `--prompt` run the graphs on another model instead.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyvista
from PIL import Image, ImageDraw

from tools import workflows

SIZE = 512  # pixels, the longer side
TILE = 160


def run(url: str, prompt: dict) -> dict:
    """Outputs by node id, once the server has finished."""
    request = urllib.request.Request(
        f"{url}/prompt", json.dumps({"prompt": prompt}).encode(), {"Content-Type": "application/json"}
    )
    prompt_id = json.load(urllib.request.urlopen(request))["prompt_id"]
    while True:
        history = json.load(urllib.request.urlopen(f"{url}/history/{prompt_id}"))
        if prompt_id in history:
            if history[prompt_id]["status"]["status_str"] != "success":
                raise RuntimeError(json.dumps(history[prompt_id]["status"]["messages"][-1])[:500])
            return history[prompt_id]["outputs"]
        time.sleep(2)


def pictures(outputs: dict, base: Path) -> tuple[list[Image.Image], Image.Image | None]:
    """The previewed images in the nodes' order, and a render of the mesh if there is one."""
    outputs = dict(sorted(outputs.items(), key=lambda item: int(item[0])))  # they come in the order of execution
    files = [file for output in outputs.values() for file in output.get("images", []) if file["filename"].endswith(".png")]
    images = [Image.open(base / file["type"] / file["subfolder"] / file["filename"]).convert("RGB") for file in files]
    meshes = [file for output in outputs.values() for file in output.get("3d", [])]
    return images, mesh_picture(base / "output" / meshes[0]["subfolder"] / meshes[0]["filename"]) if meshes else None


def mesh_picture(path: Path) -> Image.Image:
    plotter = pyvista.Plotter(off_screen=True, window_size=(2 * TILE, 2 * TILE))
    plotter.import_gltf(str(path))
    plotter.set_background("white")
    for actor in plotter.actors.values():
        actor.GetProperty().LightingOff()  # the texture has its shading baked in
    shots = []
    for azimuth in np.deg2rad(np.arange(0, 360, 30)):
        plotter.camera_position = [(3.4 * np.sin(azimuth), 1.4, 3.4 * np.cos(azimuth)), (0, 0, 0), (0, 1, 0)]
        shots.append(np.asarray(plotter.screenshot(return_img=True)))
    return Image.fromarray(max(shots, key=lambda shot: (shot < 250).any(-1).sum()))  # least of the solids hides the rest


def video_frames(outputs: dict, base: Path, count: int = 8) -> list[Image.Image]:
    import av  # noqa: PLC0415

    for output in outputs.values():
        for file in output.get("images", []):
            if file["filename"].endswith(".mp4"):
                with av.open(str(base / file["type"] / file["subfolder"] / file["filename"])) as video:
                    frames = [frame.to_image() for frame in video.decode(video=0)]
                return frames[:: max(1, len(frames) // count)][:count]
    return []


def compose(images: list[Image.Image], mesh: Image.Image | None) -> Image.Image:
    """Square images in rows of four (of two beside a mesh), wide ones a row each, as many rows as make a square."""
    columns = 2 if mesh is not None else min(4, len(images))
    rows: list[list[Image.Image]] = []
    for image in images:
        if not rows or image.width > 2 * image.height or len(rows[-1]) == columns or rows[-1][0].width > 2 * rows[-1][0].height:
            rows.append([])
        rows[-1].append(image)
    width = columns * TILE
    sheet = Image.new("RGB", (width, width), "white")
    top = 0
    for row in rows:
        tile = width if row[0].width > 2 * row[0].height or len(images) == 1 else TILE
        height = round(tile * row[0].height / row[0].width)
        if top + height > width:
            break
        for column, image in enumerate(row):
            sheet.paste(image.resize((tile, height), Image.Resampling.LANCZOS), (column * tile, top))
        top += height
    sheet = sheet.crop((0, 0, width, top))
    if mesh is not None:
        wide = Image.new("RGB", (width + top, top), "white")
        wide.paste(sheet)
        wide.paste(mesh.resize((top, top), Image.Resampling.LANCZOS), (width, 0))
        sheet = wide
    scale = SIZE / sheet.width
    return sheet.resize((SIZE, round(sheet.height * scale)), Image.Resampling.LANCZOS)


def label(card: Image.Image, text: str) -> None:
    """Say on the picture what it is not: a graph's own model."""
    ImageDraw.Draw(card).text((8, card.height - 18), text, fill="black")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("base", type=Path)
    parser.add_argument("names", nargs="*", default=workflows.names())
    parser.add_argument("--model", help="of Load MVDream's list, for all graphs")
    parser.add_argument("--steps", type=int, help="at most so many for each fit and refinement, on a slow machine")
    parser.add_argument("--prompt", help="for all graphs, when the model knows few words")
    options = parser.parse_args()
    for name in options.names:
        prompt = workflows.to_api(workflows.load(name))
        for entry in prompt.values():
            if options.model and entry["class_type"] == "GroundedDreamerLoadMVDream":
                entry["inputs"]["model"] = options.model
            if options.steps and entry["class_type"] in ("GroundedDreamerFitNeRF", "GroundedDreamerRefineSDS"):
                entry["inputs"]["steps"] = min(options.steps, entry["inputs"]["steps"] or options.steps)
            if options.prompt and entry["class_type"] == "GroundedDreamerFocusPrompt":
                entry["inputs"]["prompt"] = options.prompt
        outputs = run(options.url, prompt)
        images, mesh = pictures(outputs, options.base)
        card = compose(images or video_frames(outputs, options.base), mesh)
        if options.model:
            label(card, f"drawn with: {options.model}")
        card.save(workflows.FOLDER / f"{name}.jpg", quality=88)
        print(name, flush=True)


if __name__ == "__main__":
    main()
