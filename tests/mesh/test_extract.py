"""The whole stage: pieces, colours, reports, progress, cancelling, bad settings."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gd_core.mesh import MeshConfig, compare_meshes, extract_mesh
from gd_core.mesh.triangle_mesh import TriangleMesh
from gd_core.nerf import EncodingConfig, FieldConfig, RadianceField, shape
from gd_core.nerf.shape import interpolation
from tools.mesh_scenes import BLUE, GREEN, RED, THREE_SOLIDS

from .conftest import SMALL


def surface_colors(mesh: TriangleMesh) -> torch.Tensor:
    """Nearest texel at the middle of every face, `[F, 3]`."""
    size = mesh.texture.shape[0]
    column, row = (mesh.uvs[mesh.faces].mean(1) * size).long().clamp(0, size - 1).unbind(1)
    return mesh.texture[row, column]


def test_objects_that_are_apart_come_out_as_pieces_with_their_own_colours(textured_mesh):
    assert len(textured_mesh.parts()) == textured_mesh.report["pieces"] == 3
    volumes = textured_mesh.report["piece_volumes"]
    assert volumes == sorted(volumes, reverse=True)
    colors = surface_colors(textured_mesh)
    found = {tuple(round(float(c), 2) for c in colors[textured_mesh.part == piece].median(0).values) for piece in range(3)}
    assert found == {RED, BLUE, GREEN}
    spread = [colors[textured_mesh.part == piece].std(0).max() for piece in range(3)]
    assert max(spread) < 0.02


def test_the_surface_is_closed_decimated_and_where_the_solids_are(textured_mesh):
    assert textured_mesh.report["watertight"] and textured_mesh.report["defects"] == []
    assert textured_mesh.report["faces"] == len(textured_mesh.faces) == pytest.approx(3000, rel=0.02)
    score = compare_meshes(textured_mesh, THREE_SOLIDS.surface(64), samples=5000)
    assert score.chamfer < 0.025 and score.f_score > 0.99


def test_texture_and_vertex_colours_agree_with_the_field(textured_mesh, vertex_colored_mesh):
    truth = THREE_SOLIDS.color(vertex_colored_mesh.vertices)
    assert (vertex_colored_mesh.vertex_colors - truth).abs().max() < 0.02
    middle = textured_mesh.vertices[textured_mesh.faces].mean(1)
    assert (surface_colors(textured_mesh) - THREE_SOLIDS.color(middle)).abs().mean() < 0.01
    assert vertex_colored_mesh.texture is None and vertex_colored_mesh.uvs is None


def test_the_same_field_gives_the_same_mesh(textured_mesh):
    again = extract_mesh(THREE_SOLIDS, MeshConfig(**SMALL, parts="pieces"))
    for name in ("vertices", "faces", "normals", "uvs", "texture", "vertex_colors", "part"):
        assert torch.equal(getattr(again, name), getattr(textured_mesh, name)), name


def test_pieces_can_be_taken_apart(textured_mesh):
    parts = [part for _, part in textured_mesh.parts()]
    assert sum(len(part.faces) for part in parts) == len(textured_mesh.faces)
    centres = np.stack([part.vertices.mean(0).numpy() for part in parts])
    assert sorted(np.round(centres[:, 0], 1).tolist()) == pytest.approx([-0.4, 0.0, 0.4], abs=0.11)


def test_progress_climbs_to_the_end_and_can_cancel():
    steps = []

    def watch(step: int, total: int, preview: object) -> None:
        assert total == 100 and preview is None
        steps.append(step)

    extract_mesh(THREE_SOLIDS, MeshConfig(**SMALL), watch)
    assert steps == sorted(steps) and steps[0] >= 1 and steps[-1] == 100

    def cancel(step: int, total: int, preview: object) -> None:
        if step > 20:
            raise InterruptedError("cancelled")

    with pytest.raises(InterruptedError):
        extract_mesh(THREE_SOLIDS, MeshConfig(**SMALL), cancel)


def test_a_larger_box_is_meshed_whole(textured_mesh):
    """`RadianceField` says in its config how large its box is."""

    class Doubled:
        config = SimpleNamespace(half_size=2.0)

        def density(self, points: torch.Tensor) -> torch.Tensor:
            return THREE_SOLIDS.density(points / 2) / 2

        def color(self, points: torch.Tensor) -> torch.Tensor:
            return THREE_SOLIDS.color(points / 2)

    mesh = extract_mesh(Doubled(), MeshConfig(**SMALL))
    assert mesh.report["density_threshold"] == pytest.approx(textured_mesh.report["density_threshold"] / 2)
    torch.testing.assert_close(mesh.vertices.amax(0), 2 * textured_mesh.vertices.amax(0), atol=0.02, rtol=0)


def test_a_real_field_can_be_meshed():
    """A `RadianceField` before any fit is thin everywhere; made opaque, it fills its box."""
    field = RadianceField(FieldConfig(encoding=EncodingConfig(resolution=8, channels=2), occupancy_resolution=8))
    with pytest.raises(ValueError, match="highest density is"):
        extract_mesh(field, MeshConfig(**SMALL, density_threshold=1000.0))
    with torch.no_grad():
        field.shape.grids[-1].fill_(-1.0)
    mesh = extract_mesh(field, MeshConfig(**SMALL))
    assert mesh.report["watertight"] and mesh.report["pieces"] == 1
    assert mesh.report["piece_volumes"][0] == pytest.approx(8, rel=0.05)  # not some level of the noise inside


def test_the_shape_is_summed_once_for_a_whole_mesh(monkeypatch):
    """Its pyramid is a sum over whole grids, and a mesh asks it tens of times."""
    field = RadianceField(FieldConfig(encoding=EncodingConfig(resolution=8, channels=2), occupancy_resolution=8))
    with torch.no_grad():
        field.shape.grids[-1].fill_(-1.0)
    stretched = []
    monkeypatch.setattr(shape, "interpolation", lambda *sizes: stretched.append(sizes) or interpolation(*sizes))
    field.shape.dense(), field.shape.slopes()
    once = len(stretched)
    extract_mesh(field, MeshConfig(**SMALL))
    assert len(stretched) == 2 * once > 0


def test_no_gradients_are_kept(textured_mesh):
    assert not any(t.requires_grad for t in (textured_mesh.vertices, textured_mesh.texture, textured_mesh.vertex_colors))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 8}, "multiple of 4 between 16 and 512"),
        ({"resolution": 130}, "multiple of 4"),
        ({"density_threshold": 0.0}, "must be positive"),
        ({"density_threshold": float("nan")}, "must be positive"),
        ({"target_faces": 5}, "at least 100"),
        ({"target_faces": 500_000}, "too many to unwrap"),
        ({"color": "crayon"}, "'texture' or 'vertex'"),
        ({"texture_size": 16}, "between 64 and 8192"),
        ({"min_piece_fraction": 1.0}, "below 1"),
        ({"shell_samples": 1}, "2 samples"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**options)
