"""Views painted onto meshes: the mesh is found wherever it lies, colours land where they belong, other objects are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.mesh.project import paint, project_views
from gd_core.mesh.raster import depth_maps, render_unlit
from gd_core.mesh.silhouette import place, quarter_turns, silhouettes
from gd_core.mesh.surface import decimate, piece_labels, vertex_normals
from gd_core.mesh.triangle_mesh import TriangleMesh
from tools.mesh_scenes import BLUE, GREEN, RED, STACK, THREE_SOLIDS, Solid, SolidScene

VIEWS = orbit_cameras(4)


def surface(scene: SolidScene, faces: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    truth = scene.surface(40)
    return decimate(np.float32(truth.vertices), np.int64(truth.faces), faces)


def mesh_of(vertices: np.ndarray, faces: np.ndarray) -> TriangleMesh:
    normals = torch.from_numpy(vertex_normals(vertices, faces))
    return TriangleMesh(torch.from_numpy(vertices), torch.from_numpy(faces), normals, torch.full((len(vertices), 3), 0.7))


@pytest.fixture(scope="module")
def three():
    return *surface(THREE_SOLIDS), THREE_SOLIDS.views(VIEWS, 64)


def test_there_are_24_turns_and_none_mirrors():
    turns = quarter_turns()
    assert len({turn.tobytes() for turn in turns}) == 24 and all(np.linalg.det(turn) > 0.5 for turn in turns)
    assert np.array_equal(turns[0], np.eye(3)) and all(turn[2, 2] == 1 for turn in turns[:4])


@pytest.mark.parametrize("index", [0, 2, 9, 17])
def test_a_mesh_is_found_wherever_it_lies(index, three):
    vertices, faces, views = three
    turn = quarter_turns()[index]
    moved = np.float32(1.3 * vertices @ turn.T + (0.3, -0.2, 0.15))
    placement = place(moved, faces, views)
    assert placement.agreement > 0.93
    assert np.array_equal(placement.turn, turn.T)
    assert np.abs(placement.apply(moved) - vertices).max() < 0.04


def torn(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every face with corners of its own, as flat-shaded files have them."""
    return vertices[faces.ravel()], np.arange(faces.size).reshape(-1, 3)


def split_unevenly(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every second face cut in many: its edges have vertices that its neighbours lack."""
    many = trimesh.Trimesh(vertices, faces[::2], process=False).subdivide().subdivide().subdivide()
    return np.float32(np.concatenate((many.vertices, vertices))), np.concatenate((many.faces, faces[1::2] + len(many.vertices)))


@pytest.mark.parametrize("spoil", [torn, split_unevenly], ids=lambda spoil: spoil.__name__)
def test_a_mesh_is_found_whatever_its_triangles_are_like(spoil, three):
    vertices, faces = spoil(*surface(THREE_SOLIDS, 6000))
    turn = quarter_turns()[9]
    placement = place(np.float32(1.3 * vertices @ turn.T + (0.3, -0.2, 0.15)), faces, three[2])
    assert placement.agreement > 0.93 and np.array_equal(placement.turn, turn.T)


def test_the_nearest_surface_hides_what_is_behind(three):
    vertices, faces, _ = three
    depth = depth_maps(vertices, faces, VIEWS, 32, 32)
    truth = THREE_SOLIDS.views(VIEWS, 32)
    drawn = np.isfinite(depth)
    assert (drawn == (truth.masks.numpy() > 0.5)).mean() > 0.97
    origins, directions = VIEWS.rays(32, 32)
    ahead = -torch.einsum("vhwi,vi->vhw", directions, VIEWS.c2w[:, :3, 2]).numpy()
    points = origins.numpy() + directions.numpy() * (np.where(drawn, depth, 0) / ahead)[..., None]
    off = THREE_SOLIDS.distance(torch.from_numpy(np.float32(points[drawn]))).abs()
    assert off.quantile(0.95) < 0.03


def test_pictures_of_a_painted_mesh_are_the_views_that_painted_it(three):
    vertices, faces, views = three
    painted = project_views(mesh_of(vertices, faces), views, texture_size=128)
    images, masks = render_unlit(painted, VIEWS, 64, 64, background=(0.0, 0.0, 0.0))
    both = (masks > 0.5) & (views.masks > 0.99)
    assert both.sum() > 0.9 * (views.masks > 0.5).sum()
    assert (images - views.images).abs().amax(-1)[both].quantile(0.9) < 0.1
    assert (images[masks == 0] == 0).all()


def test_colours_of_corners_run_straight_in_space_not_in_the_picture():
    corners = np.float32([(-1, -1, -0.5), (1, -1, -0.5), (1, 1, 0.5), (-1, 1, 0.5)])
    mesh = mesh_of(corners, np.int64([(0, 1, 2), (0, 2, 3)]))
    mesh.vertex_colors = torch.from_numpy((corners + 1) / 2)
    images, masks = render_unlit(mesh, VIEWS[3], 48, 48)
    origins, directions = VIEWS[3].rays(48, 48)
    along = (0.5 * origins[..., 1] - origins[..., 2]) / (directions[..., 2] - 0.5 * directions[..., 1])  # the plane z = y / 2
    points = (origins + along[..., None] * directions + 1) / 2
    assert masks.sum() > 100
    torch.testing.assert_close(images[masks > 0.5], points[masks > 0.5], atol=2e-4, rtol=0)


def test_colours_land_on_their_solids_and_the_mesh_stays_where_it_was(three):
    vertices, faces, views = three
    moved = np.float32(1.3 * vertices @ quarter_turns()[9].T + (0.3, -0.2, 0.15))
    painted = project_views(mesh_of(moved, faces), views, texture_size=128)
    assert painted.texture.shape == (128, 128, 3) and len(painted.faces) == len(faces)
    assert torch.allclose(painted.vertices[painted.faces], torch.from_numpy(moved[faces]))
    assert painted.report["agreement"] > 0.9 and 0.5 < painted.report["seen"] < 1
    # which solid each face is of, by the true scene; its colour's strongest channel must be that solid's
    centres = torch.from_numpy(vertices[faces].mean(1))
    truth = THREE_SOLIDS.color(centres)
    column, row = (painted.uvs[painted.faces].mean(1) * 128).long().clamp(0, 127).unbind(1)
    right = painted.texture[row, column].argmax(1) == truth.argmax(1)
    assert right.float().mean() > 0.95


def test_no_colour_bleeds_through_a_wall():
    """A small red ball in front of a large blue one, seen by one camera: its shadow on the blue one stays blue."""
    scene = SolidScene((Solid("sphere", (0.0, -0.55, 0.0), 0.2, RED), Solid("sphere", (0.0, 0.25, 0.0), 0.45, BLUE)))
    vertices, faces = surface(scene, 3000)
    views = scene.views(orbit_cameras(4, 0.0, 0.0), 96)
    points, normals = vertices, vertex_normals(vertices, faces)
    blue = scene.color(torch.from_numpy(points))[:, 2].numpy() > 0.5
    pieces = piece_labels(vertices, faces)[np.unique(faces, return_index=True)[1] // 3]
    colors, seen = paint(points, normals, pieces, vertices, faces, views)
    assert (colors[blue].argmax(1) == 2).mean() > 0.99
    alone, seen_alone = paint(points, normals, pieces, vertices, faces, replace_views(views, [0]))
    behind = blue & (points[:, 1] < 0) & (np.hypot(points[:, 0], points[:, 2]) < 0.12)
    assert behind.any() and not seen_alone[behind].any()
    assert (alone[blue & ~seen_alone].argmax(1) == 2).mean() > 0.9


def replace_views(views, indices):
    return replace(views, images=views.images[indices], masks=views.masks[indices], cameras=views.cameras[indices])


def test_own_uvs_are_kept_where_they_hold_a_texture(three):
    vertices, faces, views = three
    first = project_views(mesh_of(vertices, faces), views, texture_size=64)
    again = project_views(first, views, texture_size=64)
    assert torch.equal(again.uvs, first.uvs) and torch.equal(again.faces, first.faces)
    folded = replace(first, uvs=first.uvs * 0.0 + torch.rand(first.uvs.shape, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(project_views(folded, views, texture_size=64).uvs, folded.uvs)


@pytest.mark.parametrize(
    "other",
    [
        STACK.views(VIEWS, 64),
        SolidScene((Solid("cylinder", (0.0, 0.0, 0.0), 0.8, GREEN),)).views(VIEWS, 64),
        SolidScene((Solid("sphere", (0.0, 0.0, 0.0), 0.5, RED),)).views(VIEWS, 64),
    ],
)
def test_views_of_another_object_are_refused(other, three):
    vertices, faces, _ = three
    with pytest.raises(ValueError, match="do not show this mesh: their silhouettes agree to 0"):
        project_views(mesh_of(vertices, faces), other, texture_size=64)


def test_a_million_faces_are_refused_before_any_work(three):
    def refuse(*_):
        raise AssertionError("work began")

    with pytest.raises(ValueError, match="has 1000000 faces and no UVs .* Decimate Mesh"):
        project_views(mesh_of(*plain(1000)), three[2], progress=refuse)


def plain(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A square of `side` * `side` triangles in `z = 0`."""
    columns, rows = side + 1, side // 2 + 1
    x, y = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows))
    vertices = np.stack((x, y, np.zeros_like(x)), axis=-1).reshape(-1, 3).astype(np.float32)
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    a, b, c, d = corner, corner + 1, corner + columns, corner + columns + 1
    return vertices, np.concatenate((np.stack((a, b, c), 1), np.stack((b, d, c), 1)))


def test_an_empty_view_and_a_bad_size_are_named(three):
    vertices, faces, views = three
    empty = replace(views, masks=views.masks * torch.tensor([1.0, 1.0, 0.0, 1.0])[:, None, None])
    with pytest.raises(ValueError, match="view 3 shows no object"):
        project_views(mesh_of(vertices, faces), empty)
    with pytest.raises(ValueError, match="texture_size"):
        project_views(mesh_of(vertices, faces), views, texture_size=1)


def test_it_can_be_cancelled_in_every_step(three):
    vertices, faces, views = three
    for stop in (1, 20, 26):
        steps = []

        def cancel(step, total, preview, steps=steps, stop=stop):
            steps.append((step, total))
            if len(steps) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            project_views(mesh_of(vertices, faces), views, texture_size=64, progress=cancel)
        assert len(steps) == stop


def test_an_orthographic_camera_measures_depth_between_the_corners_of_large_triangles():
    """A box of twelve triangles seen askew: depth is linear across the picture, which under a pinhole 1 / depth is."""
    orbit = orbit_cameras(1, 20, 30)
    cameras = Cameras(orbit.c2w, orbit.fov_y_deg, torch.tensor([2.0]))
    box, fine = trimesh.creation.box((1, 1, 1)), trimesh.creation.box((1, 1, 1)).subdivide().subdivide().subdivide()
    coarse, exact = (depth_maps(np.float32(m.vertices), np.asarray(m.faces), cameras, 48, 48) for m in (box, fine))
    both = np.isfinite(coarse) & np.isfinite(exact)
    assert both.any() and np.abs(coarse[both] - exact[both]).max() < 1e-4


def test_silhouettes_of_oblong_views_are_those_of_square_ones_with_margins():
    ball, cameras = trimesh.creation.icosphere(2, 0.4), orbit_cameras(2, 10)
    square = silhouettes(np.float32(ball.vertices), np.asarray(ball.faces), cameras, 32, 32)
    oblong = silhouettes(np.float32(ball.vertices), np.asarray(ball.faces), cameras, 32, 64)
    assert (oblong[:, :, 16:48] == square).all() and not oblong[:, :, :16].any()
