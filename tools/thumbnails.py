"""Thumbnails of the example graphs, from a run of each on a ComfyUI server: `python -m tools.thumbnails [NAME ...]`.

Starts a server from `COMFY_DIR` with `COMFY_PYTHON`; `--url` and `--base` take one that runs already, with its base directory.
Full quality needs MVDream's weights there: without them the bundled model stands in for it, and the picture says so. A graph
that goes on to another model's reconstruction is drawn up to there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyvista
from PIL import Image, ImageDraw

from tools import comfyui, workflows

SIZE = 512  # pixels a side
STRIP = SIZE // 4
REAL_MODEL = "2_full_quality_mvdream"
OWN_WEIGHTS = "ImageOnlyCheckpointLoader"  # core's loader of a reconstructor, whose weights are the user's
NAMED_VIEWS = "front", "left", "back", "right"  # outputs of Views by Name
STAND_IN = {"GroundedDreamerLoadMVDream": {"model": "toys (bundled)"}, "GroundedDreamerFocusPrompt": {"prompt": "a red cube"}}


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
    plotter = pyvista.Plotter(off_screen=True, window_size=(SIZE, SIZE))
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
    """A square: the mesh above its views, or the pictures in as many rows and columns as there are."""
    card = Image.new("RGB", (SIZE, SIZE), "white")
    if mesh is not None:
        place(card, mesh, (STRIP // 2, 0, SIZE - STRIP, SIZE - STRIP))
        for index, image in enumerate(images[:4]):
            place(card, image, (index * STRIP, SIZE - STRIP, STRIP, STRIP))
        return card
    wide = images[0].width > 2 * images[0].height
    if wide:  # rows of views to compare; what else there is would make them small
        images = [image for image in images if image.width > 2 * image.height]
    columns = 1 if wide else int(np.ceil(np.sqrt(len(images))))
    rows = int(np.ceil(len(images) / columns))
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        box = (column * SIZE // columns, row * SIZE // rows, SIZE // columns, SIZE // rows)
        place(card, image, box)
    return card


def place(card: Image.Image, image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Paste a picture into (left, top, width, height), as large as it fits, in the middle."""
    left, top, width, height = box
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    where = left + (width - size[0]) // 2, top + (height - size[1]) // 2
    card.paste(image.resize(size, Image.Resampling.LANCZOS), where)


def label(card: Image.Image, text: str, corner: tuple[int, int] = (0, 0)) -> None:
    """Say on the picture what it shows, or what it does not: a graph's own model."""
    ImageDraw.Draw(card).text((corner[0] + 8, corner[1] + 8), text, fill="black")


def leave_out(prompt: dict, number: str) -> None:
    """Take a node out of a prompt, and all that depends on it."""
    prompt.pop(number, None)
    for other, entry in list(prompt.items()):
        if other in prompt and any(isinstance(value, list) and value[0] == number for value in entry["inputs"].values()):
            leave_out(prompt, other)


def prompt_of(name: str, changes: dict[str, dict]) -> dict:
    """A graph in the API's format with other inputs by class type, its views previewed where only the page shows them."""
    prompt = workflows.to_api(workflows.load(name))
    for entry in prompt.values():
        entry["inputs"] |= changes.get(entry["class_type"], {})
    for loader in [number for number, entry in prompt.items() if entry["class_type"] == OWN_WEIGHTS]:
        leave_out(prompt, loader)
    for number, entry in list(prompt.items()):
        if entry["class_type"] == "GroundedDreamerViewsByName":
            for output in range(len(NAMED_VIEWS)):
                prompt[f"{1000 + output}"] = {"class_type": "PreviewImage", "inputs": {"images": [number, output]}}
    if not any(entry["class_type"] == "PreviewImage" for entry in prompt.values()):
        sampler = next(i for i, entry in prompt.items() if entry["class_type"] == "GroundedDreamerSampleViews")
        prompt["0"] = {"class_type": "PreviewImage", "inputs": {"images": [sampler, 1]}}
    return prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="of example workflows; all of them without")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--base", type=Path, help="that server's base directory")
    options = parser.parse_args()
    with ExitStack() as stack:
        base = options.base or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = options.url or stack.enter_context(comfyui.running(base))
        for name in options.names or workflows.names():
            stands_in = name == REAL_MODEL and not any((base / "models/mvdream").glob("*"))
            outputs = run(url, prompt_of(name, STAND_IN if stands_in else {}))
            images, mesh = pictures(outputs, base)
            frames = video_frames(outputs, base, 9)
            card = compose(frames or images, mesh)
            if stands_in:
                label(card, "drawn with the bundled toys model")
            if any(node["type"] == "GroundedDreamerViewsByName" for node in workflows.load(name)["nodes"]):
                for index, view in enumerate(NAMED_VIEWS):
                    label(card, view, (index % 2 * SIZE // 2, index // 2 * SIZE // 2))
            card.save(workflows.FOLDER / f"{name}.jpg", quality=88)
            print(name, flush=True)


if __name__ == "__main__":
    main()
