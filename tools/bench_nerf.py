"""Benchmark of the sparse-view NeRF: four views in, 12 held-out views and the mesh scored, same scenes and seeds every time.

    python -m tools.bench_nerf                     solids and meshes, 128 x 128 pixels
    python -m tools.bench_nerf --scenes textured --size 256 --quality fine --cpu-time
    python -m tools.bench_nerf --scenes "cup, lamp;nut, world" --seconds 40
    python -m tools.bench_nerf --roofline          step time against what the machine could do

Scenes are those of `tools/nerf_scenes.py`. Chamfer distance (world units, of a box of 2) and F-score (at 0.05) are those of the
exported mesh against the true surface. The peak is that of the process so far, or of a fit's tensors on a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gd_core import devices
from gd_core.cameras import Cameras, orbit_cameras
from gd_core.mesh import MeshConfig, compare_meshes, extract_mesh
from gd_core.nerf import QUALITIES, FitConfig, RadianceField
from gd_core.nerf.fit import SMOOTH_POINTS, SparseViewFit
from gd_core.views import ViewSet
from tools.nerf_scenes import Scene, scenes, solid_views

COLUMNS = ("reference", "novel", "IoU", "Chamfer", "F-score", "seconds", "GB")


def train_cameras() -> Cameras:
    return orbit_cameras(4)


def test_cameras() -> Cameras:
    """Between the training views, below, level with and above them."""
    return orbit_cameras(12, [0.0, 15.0, 30.0] * 4, azimuth_start_deg=105)


def scores(field: RadianceField, cameras: Cameras, images: Tensor, masks: Tensor) -> tuple[float, float]:
    """Mean PSNR in dB and mean mask IoU over the views."""
    out = field.render(cameras, *masks.shape[1:])
    psnr = -10 * (out.rgb.cpu() - images).square().mean((1, 2, 3)).log10()
    ours, truth = out.alpha.cpu() > 0.5, masks > 0.5
    iou = (ours & truth).sum((1, 2)) / (ours | truth).sum((1, 2)).clamp(min=1)
    return float(psnr.mean()), float(iou.mean())


def run_scene(
    scene: Scene, config: FitConfig, size: int, clock: Callable[[], float], device: torch.device
) -> tuple[float, ...]:
    """What `COLUMNS` name, of one fit."""
    views = ViewSet(*scene.draw(train_cameras(), size), train_cameras())
    devices.reset_peak_memory(device)
    start = clock()
    fit = SparseViewFit(views, config, device)
    while not fit.done:
        fit.step(elapsed=clock() - start)
    fit.finish()
    devices.synchronize(device)
    seconds = clock() - start
    peak = (devices.peak_memory(device) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 2**30
    reference = scores(fit.field, train_cameras(), views.images, views.masks)[0]
    novel = scores(fit.field, test_cameras(), *scene.draw(test_cameras(), size))
    shape = compare_meshes(extract_mesh(fit.field, MeshConfig(resolution=max(128, size), color="vertex")), scene.surface())
    return reference, *novel, shape.chamfer, shape.f_score, seconds, peak


def best_of(repeats: int, work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the quickest of `repeats` runs."""
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)


def roofline(config: FitConfig, size: int, clock: Callable[[], float]) -> None:
    """Print the time of a step against the lower bound that this machine's arithmetic and memory set.

    A sample that is seen costs the MLP three passes (forward, by input, by weight), and reads each of its texels once forward
    and reads and writes it once backward; its activations are written, read, and so are their gradients. Every sample does
    the like with the eight corners of its distance, and a seen one with those of its slopes. The shape's grid is summed, bent
    along three axes and sloped along three, forward and back. Adam touches seven arrays of the parameters' size. Anything
    that is not one of these (marching, indices, undersides, dispatch) counts as overhead.
    """
    views = ViewSet(*solid_views("cube+sphere+cylinder", train_cameras(), size), train_cameras())
    fit = SparseViewFit(views, config, torch.device("cpu"))
    for _ in range(config.steps // 2):  # past the milestones, with the grid pruned
        fit.step(0.0)
    before, seen_before, steps = fit.num_samples, fit.num_seen, 48
    start = clock()
    for _ in range(steps):
        fit.step(0.0)
    measured = (clock() - start) / steps
    samples, seen = (fit.num_samples - before) / steps, (fit.num_seen - seen_before) / steps
    encoding, hidden, cells = fit.field.config.encoding, fit.field.config.hidden, fit.field.shape.grids[-1].numel()
    points = seen + 2 * SMOOTH_POINTS  # where albedo is asked for
    features, texels = 3 * encoding.channels, 3 * encoding.channels * (4 + 2)
    flops = points * (6 * (features * hidden + hidden * 3) + 6 * texels) + (samples + 3 * seen) * 6 * 8
    parameters = sum(p.numel() for p in fit.field.parameters())
    moved = points * 4 * (3 * texels + 4 * (features + hidden + 3)) + (samples + 3 * seen) * 4 * 3 * 8
    moved += 4 * (7 * parameters + 26 * cells)
    matrix, block = torch.rand(1024, 1024), torch.rand(2**24)
    target = torch.empty_like(block)
    arithmetic = 2 * 1024**3 / best_of(10, lambda: matrix @ matrix, clock)
    bandwidth = 2 * 4 * 2**24 / best_of(10, lambda: target.copy_(block), clock)
    bound = max(flops / arithmetic, moved / bandwidth)
    print(f"sgemm {arithmetic / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s, {torch.get_num_threads()} threads")
    print(f"{samples:.0f} samples a step on {config.rays_per_step} rays, {seen:.0f} of them seen")
    print(f"work: {flops / 1e6:.0f} MFLOP, {moved / 1e6:.0f} MB")
    print(f"roofline: compute {flops / arithmetic * 1e3:.1f} ms, memory {moved / bandwidth * 1e3:.1f} ms")
    print(f"step: {measured * 1e3:.1f} ms, {measured / bound:.1f} times the roofline")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", default="all", help="solids, mesh, all (both), toys, textured, or names with semicolons")
    parser.add_argument("--quality", choices=QUALITIES, default=FitConfig().quality)
    parser.add_argument("--seconds", type=float, help="budget of each fit instead of its steps")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds, for a machine that is shared")
    parser.add_argument("--size", type=int, default=128, help="pixels a side of the views")
    parser.add_argument("--roofline", action="store_true", help="only time a step against the machine")
    parser.add_argument("--device", default="cpu", help="where to fit (default: cpu, which repeats to the bit)")
    parser.add_argument("--encoding", choices=("vm", "hash"), help="of the albedo")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override part of FitConfig")
    arguments = parser.parse_args()
    config = dataclasses.replace(FitConfig(quality=arguments.quality, seconds=arguments.seconds), **parsed(arguments.set))
    if arguments.encoding is not None:
        encoding = dataclasses.replace(config.field.encoding, kind=arguments.encoding)
        config = dataclasses.replace(config, field=dataclasses.replace(config.field, encoding=encoding))
    device = devices.resolve_device(arguments.device)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    if arguments.roofline:
        roofline(config, arguments.size, clock)
        return
    kind = "CPU" if arguments.cpu_time else "wall"
    where = f"{arguments.size}x{arguments.size}, {arguments.quality}, {config.field.encoding.kind}, {devices.describe(device)}"
    print(f"{where}, {torch.get_num_threads()} threads, {kind} seconds")
    print(f"{'scene':24s}" + "".join(f"{column:>10s}" for column in COLUMNS))
    rows = []
    for scene in scenes(arguments.scenes):
        rows.append(run_scene(scene, config, arguments.size, clock, device))
        print(f"{scene.name:24s}" + "".join(f"{value:10.3f}" for value in rows[-1]), flush=True)
    if len(rows) > 1:
        print(f"{'mean':24s}" + "".join(f"{value:10.3f}" for value in np.mean(rows, axis=0)))


def parsed(overrides: list[str]) -> dict:
    return {name: float(value) if "." in value else int(value) for name, value in (o.split("=") for o in overrides)}


if __name__ == "__main__":
    main()
