"""Benchmark of the sparse-view NeRF: four views in, 12 held-out views and the mesh scored, same scenes and seeds every time.

    python -m tools.bench_nerf                     toy scenes and meshes, 60 s each
    python -m tools.bench_nerf --scenes toy --seconds 20 --cpu-time
    python -m tools.bench_nerf --roofline          step time against what the machine could do

Toy scenes are analytic (`tools/tiny`). The meshes are those that ship with pyvista, ray-traced by embree with the same light.
Chamfer distance (world units, of a box of 2) and F-score (at 0.05) are those of the exported mesh against the true surface.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyvista
import torch
import trimesh
from pyvista import examples
from torch import Tensor
from trimesh.ray.ray_pyembree import RayMeshIntersector

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.mesh import MeshConfig, compare_meshes, extract_mesh
from gd_core.nerf import FitConfig, RadianceField
from gd_core.nerf.fit import SMOOTH_POINTS, SparseViewFit
from gd_core.views import ViewSet
from tools.tiny.renderer import AMBIENT, DIFFUSE, LIGHT, render
from tools.tiny.scenes import Solid

TOY_SCENES = {
    "cube+sphere+cylinder": [
        Solid("cube", "red", "", 0.45, (-0.45, 0.0, 0.0), 0.3),
        Solid("sphere", "blue", "", 0.40, (0.45, 0.3, -0.1), 0.0),
        Solid("cylinder", "green", "", 0.35, (0.1, -0.5, 0.1), 0.0),
    ],
    "cube next to sphere": [
        Solid("cube", "yellow", "", 0.50, (-0.5, 0.1, 0.0), 0.7),
        Solid("sphere", "purple", "", 0.50, (0.5, -0.1, 0.0), 0.0),
    ],
    "cone on cube": [
        Solid("cube", "orange", "", 0.55, (0.0, 0.0, -0.4), 0.4),
        Solid("cone", "cyan", "", 0.45, (0.0, 0.0, 0.43), 0.0),
    ],
    "torus beside cylinder": [
        Solid("torus", "pink", "", 0.55, (-0.45, 0.15, 0.0), 0.0),
        Solid("cylinder", "green", "", 0.45, (0.55, -0.15, 0.0), 0.0),
    ],
    "one sphere": [Solid("sphere", "cyan", "", 0.85, (0.0, 0.0, 0.0), 0.0)],
    "one cube": [Solid("cube", "red", "", 0.85, (0.0, 0.0, 0.0), 0.25)],
    "ball on torus": [
        Solid("torus", "blue", "", 0.75, (0.0, 0.0, -0.35), 0.0),
        Solid("sphere", "orange", "", 0.42, (0.0, 0.0, 0.2), 0.0),
    ],
    "cone beside cone": [
        Solid("cone", "purple", "", 0.55, (-0.4, -0.25, 0.0), 0.0),
        Solid("cone", "yellow", "", 0.45, (0.5, 0.3, -0.05), 0.0),
    ],
}
MESHES = {"ant": ("antfile", "orange"), "airplane": ("planefile", "cyan"), "nut": ("nut", "purple")}


def train_cameras() -> Cameras:
    return orbit_cameras(4)


def test_cameras() -> Cameras:
    """Between the training views, below, level with and above them."""
    return orbit_cameras(12, [0.0, 15.0, 30.0] * 4, azimuth_start_deg=105)


def toy_views(name: str, cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
    image, coverage = render(TOY_SCENES[name], cameras, size)
    return image, coverage.sum(1).clamp(0, 1)


def toy_surface(name: str) -> trimesh.Trimesh:
    """The outside of a toy scene: its solids as `tools/tiny/renderer.py` draws them, one after another."""
    unit = {
        "cube": trimesh.creation.box(extents=[1.52] * 3),
        "sphere": trimesh.creation.icosphere(4, 0.9),
        "cylinder": trimesh.creation.cylinder(0.62, 1.9, sections=96),
        "cone": trimesh.creation.cone(0.86, 1.84, sections=96).apply_translation([0, 0, -0.92]),
        "torus": trimesh.creation.torus(0.7, 0.3, major_sections=96, minor_sections=48),
    }
    parts = []
    for solid in TOY_SCENES[name]:
        part = unit[solid.shape].copy().apply_scale(solid.radius)
        part.apply_transform(trimesh.transformations.rotation_matrix(solid.yaw, [0, 0, 1]))
        parts.append(part.apply_translation(solid.center))
    return trimesh.util.concatenate(parts)


def shipped_mesh(name: str) -> trimesh.Trimesh:
    """A mesh of pyvista's examples, centred, its bounding sphere of radius 0.95, and vertex colours that vary in space."""
    if name == "nut":
        surface = pyvista.read(Path(examples.__file__).parent / "nut.ply")
    else:
        surface = pyvista.read(getattr(examples, MESHES[name][0]))
    surface = surface.extract_surface(algorithm="dataset_surface").triangulate()
    mesh = trimesh.Trimesh(surface.points, surface.faces.reshape(-1, 4)[:, 1:], process=True)
    mesh.apply_translation(-mesh.bounds.mean(0))
    mesh.apply_scale(0.95 / np.linalg.norm(mesh.vertices, axis=1).max())
    mesh.fix_normals()
    return mesh


def mesh_color(points: Tensor) -> Tensor:
    """A smooth texture in space, so that colour as well as shape can be wrong."""
    phase = torch.tensor([0.0, 2.1, 4.2])
    return 0.55 + 0.35 * torch.sin(2.5 * points + phase)


def mesh_views(name: str, cameras: Cameras, size: int, supersample: int = 2) -> tuple[Tensor, Tensor]:
    mesh = shipped_mesh(name)
    fine = size * supersample
    origins, directions = (r.reshape(-1, 3) for r in cameras.rays(fine, fine))
    tracer = RayMeshIntersector(mesh)
    points, rays, triangles = tracer.intersects_location(origins.numpy(), directions.numpy(), multiple_hits=False)
    rays, points = torch.from_numpy(rays), torch.from_numpy(np.asarray(points)).float()
    normals = torch.from_numpy(mesh.face_normals[triangles]).float()
    normals = normals * -torch.sign((normals * directions[rays]).sum(1, keepdim=True))
    shaded = mesh_color(points) * (AMBIENT + DIFFUSE * (normals @ LIGHT).clamp(min=0))[:, None]
    image, mask = torch.ones(len(origins), 3), torch.zeros(len(origins))
    image[rays], mask[rays] = shaded.clamp(0, 1), 1.0
    shape = (len(cameras), size, supersample, size, supersample)
    return image.reshape(*shape, 3).mean((2, 4)), mask.reshape(shape).mean((2, 4))


def scores(field: RadianceField, images: Tensor, masks: Tensor) -> tuple[float, float]:
    """Mean PSNR in dB and mean mask IoU over the held-out views."""
    out = field.render(test_cameras(), *masks.shape[1:])
    psnr = -10 * (out.rgb - images).square().mean((1, 2, 3)).log10()
    ours, truth = out.alpha > 0.5, masks > 0.5
    iou = (ours & truth).sum((1, 2)) / (ours | truth).sum((1, 2)).clamp(min=1)
    return float(psnr.mean()), float(iou.mean())


def run_scene(
    make: Callable[[Cameras, int], tuple[Tensor, Tensor]], config: FitConfig, size: int, marks: list[float], clock
) -> tuple[list[tuple[float, int, float, float]], RadianceField]:
    """(seconds, steps, PSNR, IoU) at each of `marks`, of which the last is the finished fit, and the field. Scoring is off the
    clock."""
    views = ViewSet(*make(train_cameras(), size), train_cameras())
    truth = make(test_cameras(), size)
    start = clock()
    fit = SparseViewFit(views, dataclasses.replace(config, seconds=marks[-1]))
    curve, off = [], 0.0
    while not fit.done:
        fit.step(elapsed=clock() - start - off)
        now = clock() - start - off
        if fit.done or (len(curve) < len(marks) - 1 and now >= marks[len(curve)]):
            paused = clock()
            curve.append((now, fit.steps_done, *scores(fit.field, *truth)))
            off += clock() - paused
    return curve, fit.field


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
    fit = SparseViewFit(ViewSet(*toy_views("cube+sphere+cylinder", train_cameras(), size), train_cameras()), config)
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
    parser.add_argument("--scenes", default="all", help="all, toy, mesh or names separated by commas")
    parser.add_argument("--seconds", type=float, default=60.0, help="budget of each fit")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds, for a machine that is shared")
    parser.add_argument("--size", type=int, default=128, help="pixels a side of the views")
    parser.add_argument("--roofline", action="store_true", help="only time a step against the machine")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override part of FitConfig")
    arguments = parser.parse_args()
    names = {"all": [*TOY_SCENES, *MESHES], "toy": [*TOY_SCENES], "mesh": [*MESHES]}.get(
        arguments.scenes, arguments.scenes.split(",")
    )
    config = dataclasses.replace(FitConfig(), **parsed(arguments.set))
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    if arguments.roofline:
        roofline(config, arguments.size, clock)
        return
    marks = sorted({m for m in (5.0, 10.0, 20.0, 40.0) if m < arguments.seconds} | {arguments.seconds})
    kind = "CPU" if arguments.cpu_time else "wall"
    print(f"{arguments.size}x{arguments.size}, {torch.get_num_threads()} threads, {kind} seconds")
    print(f"{'scene':24s}" + "".join(f"{m:>18.0f} s" for m in marks) + "    steps  chamfer  F-score")
    finals, shapes = [], []
    for name in names:
        make = (lambda c, s, n=name: toy_views(n, c, s)) if name in TOY_SCENES else (lambda c, s, n=name: mesh_views(n, c, s))
        curve, field = run_scene(make, config, arguments.size, marks, clock)
        truth = toy_surface(name) if name in TOY_SCENES else shipped_mesh(name)
        shape = compare_meshes(extract_mesh(field, MeshConfig(resolution=128, color="vertex")), truth)
        finals.append(curve)
        shapes.append((shape.chamfer, shape.f_score))
        of_curve = "".join(f"{p:12.2f} {i:7.4f}" for _, _, p, i in curve)
        print(f"{name:24s}{of_curve}{curve[-1][1]:9d}{shape.chamfer:9.4f}{shape.f_score:9.3f}", flush=True)
    if len(finals) > 1 and len({len(c) for c in finals}) == 1:
        mean, (chamfer, f_score) = np.array(finals)[:, :, 2:].mean(0), np.mean(shapes, axis=0)
        print(f"{'mean':24s}" + "".join(f"{p:12.2f} {i:7.4f}" for p, i in mean) + f"{chamfer:18.4f}{f_score:9.3f}")


def parsed(overrides: list[str]) -> dict:
    return {name: float(value) if "." in value else int(value) for name, value in (o.split("=") for o in overrides)}


if __name__ == "__main__":
    main()
