"""One closed part for each word."""

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, strategies

from gd_core.mesh import MeshConfig, extract_mesh, surface
from gd_core.mesh.parts import close, split_by_labels, without_islands
from gd_core.nerf.labels import LabelGrid
from tools.mesh_scenes import SolidScene

from .conftest import TOUCHING, LabelledScene


def ball(subdivisions: int = 3):
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions)
    vertices, faces = mesh.vertices.astype(np.float32), mesh.faces.astype(np.int64)
    return vertices, faces, surface.vertex_normals(vertices, faces)


def whole_volume(vertices, faces) -> float:
    return float(surface.piece_volumes(vertices, faces, np.zeros(len(faces), int))[0])


@given(
    direction=strategies.tuples(*[strategies.floats(-1, 1)] * 3).filter(lambda d: np.linalg.norm(d) > 0.1),
    offset=strategies.floats(-0.7, 0.7),
    wave=strategies.floats(0, 0.2),
)
def test_two_parts_are_closed_and_fill_the_whole(direction, offset, wave):
    vertices, faces, normals = ball()
    direction = np.array(direction) / np.linalg.norm(direction)
    side = vertices @ direction - offset + wave * np.sin(5 * vertices[:, 0])
    parts = split_by_labels(vertices, faces, normals, np.stack((side, -side), axis=1))
    assert parts.watertight == [True] * len(parts.labels)
    assert sum(parts.volumes) == pytest.approx(whole_volume(vertices, faces), rel=1e-4)
    assert set(parts.faces.ravel()) == set(range(len(parts.vertices)))


def test_three_labels_around_a_corner_give_three_closed_parts():
    vertices, faces, normals = ball()
    angles = [0, 2, 4]
    shares = np.stack([np.cos(a) * vertices[:, 0] + np.sin(a) * vertices[:, 1] for a in angles], axis=1)
    parts = split_by_labels(vertices, faces, normals, shares)
    assert parts.labels == [0, 1, 2] and all(parts.watertight)
    assert sum(parts.volumes) == pytest.approx(whole_volume(vertices, faces), rel=1e-4)  # no gap along the line inside


def test_four_labels_around_a_point_give_four_closed_parts():
    vertices, faces, normals = ball()
    shares = vertices @ np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32).T
    parts = split_by_labels(vertices, faces, normals, shares)
    assert len(parts.labels) == 4 and all(parts.watertight)
    whole = whole_volume(vertices, faces)
    assert 0.8 * whole < sum(parts.volumes) < whole  # a ball's tetrahedron is an eighth of it


def test_a_label_without_surface_gives_no_part_and_one_label_gives_the_whole():
    vertices, faces, normals = ball(2)
    shares = np.tile([0.2, 0.7, 0.1], (len(vertices), 1))
    parts = split_by_labels(vertices, faces, normals, shares)
    assert parts.labels == [1] and len(parts.faces) == len(faces) and not parts.caps.any()


def test_specks_of_a_label_take_the_label_around_them():
    vertices, faces, _ = ball()
    side = vertices[:, 0] + 0.01
    shares = np.stack((side, -side), axis=1)
    specks = np.flatnonzero(np.abs(side) > 0.6)[::40]
    noisy = shares.copy()
    noisy[specks] = noisy[specks][:, ::-1]
    assert np.array_equal(without_islands(vertices, faces, noisy).argmax(1), shares.argmax(1))


def test_a_lid_is_the_triangulation_of_least_area():
    """A loop that bends: a fan from its first corner would fold over itself."""
    outline = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [1, 0.3, 0], [0, 2, 0]], np.float32)
    lid = close(outline, np.arange(5))
    a, b, c = outline[lid[:, 0]], outline[lid[:, 1]], outline[lid[:, 2]]
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(2.3, rel=1e-5)


@pytest.mark.parametrize("color", ["texture", "vertex"])
def test_words_become_closed_named_nodes_that_look_like_the_whole(color, tmp_path):
    scene = LabelledScene(TOUCHING)
    config = MeshConfig(resolution=48, target_faces=2000, texture_size=256, color=color, parts="words")
    mesh = extract_mesh(scene, config)
    assert mesh.part_names == ("red cube", "blue sphere") and mesh.report["watertight"] and mesh.report["absent"] == []
    whole = extract_mesh(scene, MeshConfig(resolution=48, target_faces=2000, color="vertex"))
    volumes = [part["volume"] for part in mesh.report["parts"]]
    assert sum(volumes) == pytest.approx(whole_volume(whole.vertices.numpy(), whole.faces.numpy()), rel=0.02)
    for (_, part), solid in zip(mesh.parts(), TOUCHING, strict=True):
        colors = part.vertex_colors
        assert (colors - torch.tensor(solid.color)).abs().amax(1).median() < 0.02  # the lid too has the colour of its rim
    loaded = trimesh.load(mesh.export(tmp_path / "parts.glb"))
    assert set(loaded.geometry) == {"red cube", "blue sphere"}
    for part in loaded.geometry.values():
        part.merge_vertices(merge_tex=True, merge_norm=True)
        assert part.is_watertight


class FlatScene(SolidScene):
    """What is left of a field whose views had flat maps."""

    label_names = ("red cube", "blue sphere")
    label_grid = LabelGrid(label_names)
    provenance = {"labels": {"note": "the attention maps of the subjects are flat"}}


def test_a_field_without_labels_says_what_to_do_before_anything_runs():
    def refuse(*_):
        raise AssertionError("work began")

    with pytest.raises(ValueError, match="choose parts 'pieces' or 'none'"):
        extract_mesh(SolidScene(TOUCHING), MeshConfig(parts="words"), refuse)
    with pytest.raises(ValueError, match="maps of the subjects are flat"):
        extract_mesh(FlatScene(TOUCHING), MeshConfig(parts="words"), refuse)
    with pytest.raises(ValueError, match="parts must be one of"):
        MeshConfig(parts="letters")
