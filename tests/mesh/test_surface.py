"""Marching cubes, cavities, floaters, repair and normals."""

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from gd_core.mesh import MeshConfig, extract_mesh, surface
from gd_core.mesh.surface import cluster, fill_holes, find_defects, repair, vertex_normals
from tools.mesh_scenes import RED, Solid, SolidScene

BALL = Solid("sphere", (0.0, 0.0, 0.0), 0.5, RED)


def extract(scene: SolidScene, **options: object):
    return extract_mesh(scene, MeshConfig(resolution=64, color="vertex", target_faces=0, **options))


def icosphere(subdivisions: int = 2) -> tuple[np.ndarray, np.ndarray]:
    ball = trimesh.creation.icosphere(subdivisions)
    return ball.vertices.astype(np.float32), ball.faces.astype(np.int64)


def test_a_ball_has_the_volume_of_a_ball_and_faces_outwards():
    mesh = extract(SolidScene((BALL,)), density_threshold=5.0)
    radius = 0.5 - 0.005 * np.log(5 / 95)  # where the scene's density is 5
    assert mesh.report["watertight"] and mesh.report["piece_volumes"] == [pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)]
    radial = mesh.vertices / mesh.vertices.norm(dim=1, keepdim=True)
    assert (mesh.normals * radial).sum(1).min() > 0.98
    assert (mesh.vertices.norm(dim=1) - radius).abs().max() < 0.1 * 2 / 64  # a tenth of a cell


def test_a_hollow_ball_is_filled():
    class Hollow(SolidScene):
        def distance(self, points):
            return np.maximum(points.norm(dim=1) - 0.5, 0.3 - points.norm(dim=1))

    mesh = extract(Hollow((BALL,)), density_threshold=50.0)
    assert mesh.report["cavities_filled"] == 1 and mesh.report["pieces"] == 1
    assert mesh.vertices.norm(dim=1).min() > 0.45


def test_what_touches_the_border_of_the_box_is_closed_there():
    mesh = extract(SolidScene((Solid("sphere", (0.9, 0.0, 0.0), 0.4, RED),)))
    assert mesh.report["watertight"]
    assert mesh.vertices[:, 0].max() == pytest.approx(1.0, abs=2 / 64)


def test_floaters_go_and_small_companions_stay():
    scene = SolidScene(
        (BALL, Solid("sphere", (0.8, 0.8, 0.8), 0.06, RED), Solid("cube", (-0.75, -0.75, 0.0), 0.12, RED)), softness=0.01
    )
    mesh = extract(scene)
    assert mesh.report["floaters_removed"] == 1 and mesh.report["pieces"] == 2
    assert extract(scene, min_piece_fraction=0.0).report["pieces"] == 3
    assert extract(scene, min_piece_fraction=0.2).report["pieces"] == 1


def test_decimation_keeps_a_fitted_looking_surface_closed():
    """Lumps and pits of a cell or two, as fits leave them, are what edge collapse breaks surfaces on."""

    class Lumpy(SolidScene):
        def distance(self, points):
            x, y, z = (points * 40).unbind(1)
            return super().distance(points) + 0.03 * x.sin() * y.sin() * z.sin()

    for faces in (300, 1500, 6000):
        mesh = extract_mesh(Lumpy((BALL,)), MeshConfig(resolution=96, color="vertex", target_faces=faces))
        assert mesh.report["watertight"], mesh.report["defects"]
        assert len(mesh.faces) <= 1.1 * faces


@given(cells=st.integers(1, 64), scale=st.floats(1e-3, 1e3), torn=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_clustered_mesh_stays_within_a_cell_and_faces_as_before(cells, scale, torn):
    vertices, faces = icosphere(4)
    vertices = np.float32(scale * vertices)
    if torn:
        vertices, faces = vertices[faces.ravel()], np.arange(faces.size).reshape(-1, 3)
    rough, triangles = cluster(vertices, faces, cells)
    assert len(rough) <= cells**3 and len(triangles) <= len(faces)
    side = 2 * scale / cells
    assert (np.abs(np.linalg.norm(rough, axis=1) - scale) <= np.sqrt(3) * side + 1e-4 * scale).all()
    if cells >= 16:
        a, b, c = (rough[triangles[:, k]] for k in range(3))
        assert ((np.cross(b - a, c - a) * a).sum(1) > 0).mean() > 0.95  # outwards


def test_defects_are_named():
    vertices, faces = icosphere()
    assert find_defects(faces).watertight and find_defects(faces).describe() == []
    opened = find_defects(faces[2:])
    assert opened.open_edges in (4, 6) and not opened.watertight and "hole" in opened.describe()[0]
    fin = np.array([[*faces[0][:2], len(vertices)]])
    assert find_defects(np.concatenate((faces, fin))).crowded_edges == 1
    turned = faces.copy()
    turned[0] = turned[0][::-1]
    assert find_defects(turned).crowded_edges == 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), holes=st.integers(0, 40), doubles=st.integers(0, 5), fins=st.integers(0, 5))
def test_repair_closes_whatever_was_torn(seed, holes, doubles, fins):
    vertices, faces = icosphere()
    rng = np.random.default_rng(seed)
    torn = np.delete(faces, rng.choice(len(faces), holes, replace=False), axis=0)
    extra = [torn, torn[rng.choice(len(torn), doubles)]]
    for edge in torn[rng.choice(len(torn), fins), :2]:
        extra.append(np.array([[*edge, len(vertices)]]))
        vertices = np.concatenate((vertices, vertices[edge].mean(0, keepdims=True) * 1.1))
    fixed_vertices, fixed_faces = repair(vertices, np.concatenate(extra))
    assert find_defects(fixed_faces).watertight
    volume = surface.piece_volumes(fixed_vertices, fixed_faces, np.zeros(len(fixed_faces), dtype=np.int64))[0]
    assert volume == pytest.approx(4.05, rel=0.25)  # of the icosphere; gaps are bridged flat


def test_repair_leaves_a_sound_surface_alone():
    vertices, faces = icosphere()
    repaired_vertices, repaired_faces = repair(vertices, faces)
    assert np.array_equal(repaired_vertices, vertices) and np.array_equal(repaired_faces, faces)


def test_holes_that_share_a_corner_are_both_closed():
    vertices, faces = icosphere(1)
    around = faces[(faces == 0).any(1)]
    torn = np.array([face for face in faces.tolist() if face not in (around[0].tolist(), around[2].tolist())])
    assert find_defects(fill_holes(vertices, torn)[1]).open_edges == 0


def test_normals_have_length_one_even_where_a_fan_folds_onto_itself():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0]], dtype=np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 1], [0, 1, 3]])
    np.testing.assert_allclose(np.linalg.norm(vertex_normals(vertices, faces), axis=1), 1, atol=1e-6)


def test_the_solid_part_of_a_grid_has_an_empty_layer_around():
    grid = np.full((12, 12, 12), -4.0, dtype=np.float32)
    grid[1, 5, 9] = grid[4, 6, 10] = 4.0
    part = grid[surface.solid_box(grid)]
    assert part.shape == (6, 4, 4) and (part > 0).sum() == 2
    assert max(side.max() for axis in range(3) for side in (part.take(0, axis), part.take(-1, axis))) < 0
