"""UV raster, padding, unwrapping and the colours that are baked."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gd_core.mesh import TriangleMesh, texture
from gd_core.mesh.texture import pad_texture, rasterize_uvs, shell_colors, unwrap
from tools.mesh_scenes import BLUE, RED, THREE_SOLIDS, Solid, SolidScene

unit_interval = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(corners=st.lists(st.tuples(unit_interval, unit_interval), min_size=3, max_size=3), size=st.integers(1, 40))
def test_a_triangle_covers_exactly_the_texels_whose_centre_is_inside(corners, size):
    uvs = np.array(corners, dtype=np.float32)
    exact = uvs.astype(np.float64)
    area = np.cross(np.append(exact[1] - exact[0], 0), np.append(exact[2] - exact[0], 0))[2]
    assume(abs(area) > 1e-4)
    face, barycentric = rasterize_uvs(uvs, np.array([[0, 1, 2]]), size)
    centres = (np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1) + 0.5) / size  # [row, column] -> (u, v)
    weights = np.linalg.solve(
        np.concatenate((exact.T, np.ones((1, 3)))), np.concatenate((centres, np.ones((size, size, 1))), -1).reshape(-1, 3).T
    ).T.reshape(size, size, 3)
    lowest = weights.min(-1)
    sure = np.abs(lowest) > 1e-5
    assert ((face == 0) == (lowest > 0))[sure].all()
    covered = face == 0
    np.testing.assert_allclose((barycentric[covered][..., None] * exact).sum(1), centres[covered], atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 33), cells=st.integers(1, 9), seed=st.integers(0, 99), pairs=st.sampled_from([7, 1 << 22]))
def test_neighbouring_triangles_leave_no_texel_out(size, cells, seed, pairs):
    """A jittered triangulation of the whole square covers every texel, however the passes are cut."""
    axis = np.linspace(0, 1, cells + 1)
    points = np.stack(np.meshgrid(axis, axis), axis=-1)
    points[1:-1, 1:-1] += np.random.default_rng(seed).uniform(-0.3 / cells, 0.3 / cells, points[1:-1, 1:-1].shape)
    index = np.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    a, b, c, d = index[:-1, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, 1:].ravel(), index[1:, :-1].ravel()
    faces = np.concatenate((np.stack((a, b, c), 1), np.stack((a, c, d), 1)))
    before, texture.PAIRS_PER_PASS = texture.PAIRS_PER_PASS, pairs
    try:
        face, _ = rasterize_uvs(points.reshape(-1, 2).astype(np.float32), faces, size)
    finally:
        texture.PAIRS_PER_PASS = before
    assert (face >= 0).all()


def test_padding_copies_the_nearest_covered_texel():
    colors = np.zeros((8, 8, 3), dtype=np.float32)
    covered = np.zeros((8, 8), dtype=bool)
    covered[1, 1] = covered[6, 6] = True
    colors[1, 1], colors[6, 6] = (1, 0, 0), (0, 0, 1)
    padded = pad_texture(colors, covered)
    assert (padded[0, 0] == (1, 0, 0)).all() and (padded[7, 7] == (0, 0, 1)).all() and (padded[5, 4] == (0, 0, 1)).all()


def test_padding_by_bands_is_that_of_the_whole_within_reach_of_a_filter(monkeypatch):
    rng = np.random.default_rng(0)
    colors = rng.random((256, 256, 3), dtype=np.float32)
    covered = np.zeros((256, 256), dtype=bool)
    covered[20:90, 30:100] = covered[150:170, 200:240] = True
    whole = pad_texture(colors, covered)
    monkeypatch.setattr(texture, "TEXELS_PER_BAND", 256 * 16)
    monkeypatch.setattr(texture, "BAND_OVERLAP", 24)
    near = ndimage.binary_dilation(covered, iterations=12)
    assert (pad_texture(colors, covered)[near] == whole[near]).all()
    assert np.isfinite(pad_texture(colors, covered)).all()


def test_colour_is_that_of_the_densest_matter_near_the_surface():
    """Empty space around an object has a colour too, and it must not leak into the texture."""

    class Coated(SolidScene):
        def color(self, points: torch.Tensor) -> torch.Tensor:
            return torch.where(self.distance(points)[:, None] < 0.02, torch.tensor(RED), torch.tensor(BLUE))

    field = Coated((Solid("sphere", (0, 0, 0), 0.5, RED),), peak=2000.0, softness=0.002)
    directions = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=1).numpy()
    for misplaced in (-0.02, 0.0, 0.02):
        colors = shell_colors(field, directions * (0.5 + misplaced), directions, depth=0.04, samples=9)
        np.testing.assert_allclose(colors, np.broadcast_to(RED, (200, 3)), atol=0.02)


def arrays(mesh: TriangleMesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return mesh.vertices.numpy(), mesh.faces.numpy(), mesh.normals.numpy()


def test_unwrapping_keeps_the_surface_and_its_face_order(vertex_colored_mesh):
    vertices, faces, normals = arrays(vertex_colored_mesh)
    source, new_faces, uvs = unwrap(vertices, faces, normals, 256)
    assert np.array_equal(source[new_faces], faces)
    assert uvs.min() >= 0 and uvs.max() <= 1 and uvs.dtype == np.float32


@pytest.mark.parametrize("looks", [1, 2, 4])
def test_unwrapping_that_would_never_end_is_cancelled_at_any_look(monkeypatch, tmp_path, vertex_colored_mesh, looks):
    """xatlas keeps Python's lock while it works: only a process of its own can be ended, and it must not live on."""
    endless = tmp_path / "endless.py"
    endless.write_text("import threading\nthreading.Event().wait()")
    monkeypatch.setattr(texture, "UNWRAP_PROCESS", endless)
    started, begin, asked = [], subprocess.Popen, []
    monkeypatch.setattr(texture.subprocess, "Popen", lambda *args, **more: started.append(begin(*args, **more)) or started[-1])

    def check() -> None:
        asked.append(len(asked))
        if len(asked) == looks:
            raise InterruptedError("cancelled")

    with pytest.raises(InterruptedError):
        unwrap(*arrays(vertex_colored_mesh), 64, check)
    (process,) = started
    assert process.args[0] == sys.executable and len(asked) == looks
    assert process.returncode not in (0, None), "it was ended, and did not end by itself"


def test_what_stops_the_unwrapping_is_said(monkeypatch, tmp_path, vertex_colored_mesh):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no xatlas here')")
    monkeypatch.setattr(texture, "UNWRAP_PROCESS", broken)
    with pytest.raises(OSError, match="could not be unwrapped .no xatlas here.: try another"):
        unwrap(*arrays(vertex_colored_mesh), 64)


@pytest.mark.parametrize("at", [1, 3, 5])
def test_baking_asks_often_whether_to_stop(monkeypatch, textured_mesh, at):
    monkeypatch.setattr(texture, "TEXELS_PER_BAKE", 1 << 12)
    asked = []

    def tick(part: float) -> None:
        asked.append(part)
        if len(asked) == at:
            raise InterruptedError("cancelled")

    mesh = textured_mesh
    arguments = (mesh.vertices, mesh.normals, mesh.uvs, mesh.faces)
    with pytest.raises(InterruptedError):
        given = [value.numpy() for value in arguments]
        lids = mesh.vertex_colors.numpy(), np.zeros(len(mesh.faces), bool)
        texture.bake_texture(THREE_SOLIDS, *given, 256, 0.05, 3, tick, *lids)
    assert len(asked) == at


def test_charts_do_not_overlap(textured_mesh):
    """Were two triangles on one texel, the covered area would be less than the sum of theirs."""
    uvs, faces, size = textured_mesh.uvs.numpy(), textured_mesh.faces.numpy(), 1024
    a, b, c = np.moveaxis(uvs[faces].astype(np.float64), 1, 0)
    area = np.abs(texture.cross_2d(b - a, c - a)).sum() / 2
    assert (rasterize_uvs(uvs, faces, size)[0] >= 0).mean() == pytest.approx(area, rel=0.01)


def test_too_many_faces_to_unwrap_are_refused(monkeypatch, vertex_colored_mesh):
    monkeypatch.setattr(texture, "MAX_UNWRAP_FACES", 100)
    with pytest.raises(ValueError, match="too large to unwrap"):
        unwrap(*arrays(vertex_colored_mesh), 64)
