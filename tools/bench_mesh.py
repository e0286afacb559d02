"""Benchmark of the mesh stage: time by stage, soundness, fidelity to the field and to the truth.

    python -m tools.bench_mesh                    # analytic fields and fields fitted to four views of the same solids
    python -m tools.bench_mesh --field my.safetensors
    python -m tools.bench_mesh --out out/bench_mesh    # also the files and picture strips: field above, exported GLB below

Each GLB is read back by trimesh and rendered, without lamps, by VTK; its PSNR is against the field's own renders from 6 cameras
that no fit has seen. Needs `requirements-dev.txt`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyvista
import torch
import trimesh
from PIL import Image
from torch import Tensor

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.mesh import MeshConfig, compare_meshes, extract_mesh
from gd_core.mesh.triangle_mesh import z_up_to_y_up
from gd_core.nerf import FitConfig, RadianceField, fit_views, load_field
from tools.mesh_scenes import SCENES, SolidScene, psnr

SIZE = 160  # pixels a side of the compared renders


def held_out_cameras() -> Cameras:
    """6 cameras around the object, between the fitted azimuths, at elevations from -15 to 45 degrees."""
    return orbit_cameras(6, elevation_deg=[0.0, 30.0, 15.0, 45.0, -15.0, 20.0], azimuth_start_deg=105)


def render_glb(path: Path, cameras: Cameras, size: int, lit: bool = False) -> Tensor:
    """Pictures `[V, size, size, 3]` of a GLB on white by VTK; without `lit` the base colours as they are."""
    plotter = pyvista.Plotter(off_screen=True, window_size=(2 * size, 2 * size), lighting="light kit" if lit else "none")
    plotter.set_background("white")
    for part in trimesh.load(path, force="scene").geometry.values():
        surface = pyvista.PolyData.from_regular_faces(part.vertices, part.faces)
        surface.point_data.active_normals = part.vertex_normals
        image = part.visual.material.baseColorTexture
        if image is None:
            surface["rgb"] = linear_to_srgb(part.visual.vertex_attributes["color"][:, :3])
            plotter.add_mesh(surface, scalars="rgb", rgb=True, lighting=lit, smooth_shading=True)
        else:
            surface.active_texture_coordinates = part.visual.uv
            plotter.add_mesh(surface, texture=pyvista.numpy_to_texture(np.asarray(image)), lighting=lit, smooth_shading=True)
    images = []
    c2w = cameras.c2w
    for position, up, fov in zip(z_up_to_y_up(c2w[:, :3, 3]), z_up_to_y_up(c2w[:, :3, 1]), cameras.fov_y_deg, strict=True):
        plotter.camera.position, plotter.camera.focal_point, plotter.camera.up = position.tolist(), (0, 0, 0), up.tolist()
        plotter.camera.view_angle = float(fov)
        plotter.reset_camera_clipping_range()
        plotter.render()
        pixels = plotter.screenshot(return_img=True)[:, :, :3].astype(np.float32) / 255
        images.append(pixels.reshape(size, 2, size, 2, 3).mean((1, 3)))
    plotter.close()
    return torch.from_numpy(np.stack(images))


def linear_to_srgb(colors: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1; 16-bit normalised integers or floats in, floats 0..1 out."""
    linear = colors / (65535 if colors.max() > 1 else 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def render_analytic(scene: SolidScene, cameras: Cameras, size: int) -> Tensor:
    """The solids' field by volume rendering with 128 samples a ray, on white, `[V, size, size, 3]`."""
    images = []
    near, far = 1.9, 4.1
    t = torch.linspace(near, far, 128)
    for index in range(len(cameras)):
        origins, directions = (r.reshape(-1, 3) for r in cameras[index].rays(size, size))
        rows = []
        for origin, direction in zip(origins.split(4096), directions.split(4096), strict=True):
            points = (origin[:, None] + t[:, None] * direction[:, None]).reshape(-1, 3)
            density = (scene.density(points) * (points.abs().amax(1) <= 1)).view(-1, len(t))
            alpha = 1 - torch.exp(-density * (far - near) / (len(t) - 1))
            through = torch.cumprod(torch.cat((torch.ones_like(alpha[:, :1]), 1 - alpha), 1), 1)
            weights = alpha * through[:, :-1]
            rows.append((weights[..., None] * scene.color(points).view(*weights.shape, 3)).sum(1) + through[:, -1:])
        images.append(torch.cat(rows).view(size, size, 3))
    return torch.stack(images)


def bench(name: str, field: RadianceField | SolidScene, config: MeshConfig, truth: SolidScene | None, out: Path) -> dict:
    """One row of the table."""
    cameras = held_out_cameras()
    start, cpu_start = time.perf_counter(), time.process_time()
    mesh = extract_mesh(field, config)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    path = mesh.export(out / f"{name.replace(' ', '_')}.glb", overwrite=True, extras={"settings": vars(config)})
    drawn = render_glb(path, cameras, SIZE)
    if isinstance(field, SolidScene):
        expected = render_analytic(field, cameras, SIZE)
    else:
        expected = field.render(cameras, SIZE, SIZE).rgb.cpu()
    lit = render_glb(path, cameras, SIZE, lit=True)
    strip = [torch.cat(list(images), dim=1) for images in (expected, drawn, lit)]
    Image.fromarray((torch.cat(strip).clamp(0, 1) * 255).byte().numpy()).save(path.with_suffix(".png"))
    row = {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "stages": mesh.report["seconds"],
        "faces": mesh.report["faces"],
        "pieces": mesh.report["pieces"],
        "threshold": round(mesh.report["density_threshold"], 2),
        "watertight": mesh.report["watertight"] or mesh.report["defects"],
        "psnr_to_field": round(psnr(drawn, expected), 2),
    }
    if truth is not None:
        score = compare_meshes(mesh, truth.surface(), distance=0.05)
        row |= {"chamfer": round(score.chamfer, 4), "f_score": round(score.f_score, 3)}
    print(name, json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--field", type=Path, help="a saved field, instead of the built-in scenes")
    parser.add_argument("--fit-steps", type=int, default=500, help="steps of each four-view fit; 0 leaves the fits out")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--faces", type=int, default=20_000)
    parser.add_argument("--texture-size", type=int, default=1024)
    parser.add_argument("--color", choices=("texture", "vertex"), default="texture")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for the files and pictures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = MeshConfig(
        resolution=arguments.resolution,
        target_faces=arguments.faces,
        texture_size=arguments.texture_size,
        color=arguments.color,
    )
    with tempfile.TemporaryDirectory() as scratch:
        out = arguments.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        if arguments.field:
            bench(arguments.field.stem, load_field(arguments.field), config, None, out)
            return
        for name, scene in SCENES.items():
            bench(f"{name} analytic", scene, config, scene, out)
            if arguments.fit_steps > 0:
                field = fit_views(scene.views(orbit_cameras(4), 128), FitConfig(steps=arguments.fit_steps))
                field.save(out / f"{name.replace(' ', '_')}.safetensors")
                bench(f"{name} fitted", field, config, scene, out)


if __name__ == "__main__":
    main()
