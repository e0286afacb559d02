"""Doors to other people's nodes, as ComfyUI calls them: under inference mode, with core's own types."""

from __future__ import annotations

import os

import pytest
import torch

from tests.mesh.test_load import box
from tests.nodes.conftest import folder
from tools.mesh_scenes import THREE_SOLIDS

FRONT = {"position": {"x": 0, "y": 0, "z": 3}, "target": {"x": 0, "y": 0, "z": 0}, "fov": 40, "cameraType": "perspective"}


@pytest.fixture(scope="module")
def ball_views(nodes, ball):
    with torch.inference_mode():
        return nodes["ViewsFromImages"].execute(
            images=ball, elevation=0.0, azimuth_start=90.0, azimuth_span=360.0, fov=40.0, distance=3.0, prompt="a red ball"
        )


def test_views_by_name_are_four_images_on_white(run, ball_views):
    *images, masks = run("ViewsByName", views=ball_views.args[0], size=64).args
    assert [image.shape for image in images] == [(1, 64, 64, 3)] * 4 and masks.shape == (4, 64, 64)
    assert torch.allclose(images[0][0, 0, 0], torch.ones(3)) and images[0][0, 32, 32, 0] > images[0][0, 32, 32, 2] + 0.3
    with pytest.raises(ValueError, match="no view shows the object's front"):
        run("ViewsByName", views=ball_views.args[0], front_azimuth=45.0)


def test_views_without_attention_have_no_words(run, nodes, ball_views):
    with torch.inference_mode():
        field = nodes["FitNeRF"].execute(views=ball_views.args[0], steps=2, seed=0).args[0]
    with pytest.raises(ValueError, match="no attention maps of subjects"):
        run("SubjectMasks", views=ball_views.args[0])
    with pytest.raises(ValueError, match="no attention maps of subjects.*choose parts 'pieces' or 'none'"):
        run("ExportMesh", field=field, parts="words")


def test_the_viewers_camera_takes_the_place_of_the_orbit(run, nodes, ball, ball_views):
    views = run("ViewsFromImages", images=ball, camera_info=FRONT).args[0]
    assert torch.allclose(views.cameras.positions[0], torch.tensor([0.0, -3.0, 0.0]), atol=1e-5)
    assert torch.allclose(views.cameras.positions[1], torch.tensor([3.0, 0.0, 0.0]), atol=1e-5)
    with torch.inference_mode():
        field = nodes["FitNeRF"].execute(views=ball_views.args[0], steps=30, seed=0).args[0]
    near = run("Turntable", field=field, frames=1, size=32, camera_info=FRONT).args[1]
    far = run("Turntable", field=field, frames=1, size=32, camera_info=FRONT | {"position": {"x": 0, "y": 0, "z": 6}}).args[1]
    assert near.sum() > 2 * far.sum() > 0
    with pytest.raises(ValueError, match="perspective"):
        run("Turntable", field=field, frames=1, size=32, camera_info=FRONT | {"cameraType": "orthographic"})


def test_a_mesh_file_becomes_cores_mesh(run, nodes, base, tmp_path):
    box(True).export(folder(base / "input/meshes/box.glb"), overwrite=True)
    name = "meshes/box.glb [input]"
    assert nodes["LoadMesh"].validate_inputs(file=name) is True
    mesh, report = run("LoadMesh", file=name).args
    assert mesh.vertices.shape == (1, 36, 3) and mesh.texture.shape == (1, 16, 16, 3) and "12 triangles" in report
    assert not mesh.vertices.is_inference()
    for missing in ("none.glb [input]", "../../etc/passwd [input]", "", name[:-8], "meshes/box.glb [temp]", "a\0.glb [input]"):
        assert "no mesh file" in nodes["LoadMesh"].validate_inputs(file=missing)


def test_what_the_list_offers_is_found(nodes, base, tmp_path):
    box(True).export(folder(base / "output/a deep/folder/Box.GLB"))
    box(True).export(folder(tmp_path / "elsewhere.glb"))
    folder(base / "input/link.glb").symlink_to(tmp_path / "elsewhere.glb")
    load = nodes["LoadMesh"]
    assert {"a deep/folder/Box.GLB [output]", "link.glb [input]"} <= set(load.files())
    assert all(load.validate_inputs(file=name) is True for name in load.files())


def test_a_mesh_is_loaded_again_when_its_texture_changes(nodes, base):
    mesh = folder(base / "input/textured/box.obj")
    box(True).export(mesh)
    before = nodes["LoadMesh"].fingerprint_inputs(file="textured/box.obj [input]")
    assert nodes["LoadMesh"].fingerprint_inputs(file="textured/box.obj [input]") == before
    texture = next(file for file in mesh.parent.iterdir() if file.suffix == ".png")
    (mesh.parent / "dangling").symlink_to("nowhere")
    os.utime(texture, ns=(0, mesh.stat().st_mtime_ns + 10**9))
    assert nodes["LoadMesh"].fingerprint_inputs(file="textured/box.obj [input]") != before


def test_views_are_painted_onto_cores_mesh_and_refused_on_another(run, pack, ball_views):
    from comfy_api.latest import Types  # noqa: PLC0415

    from gd_core.cameras import orbit_cameras  # noqa: PLC0415
    from tests.mesh.test_project import mesh_of, surface  # noqa: PLC0415

    seen = THREE_SOLIDS.views(orbit_cameras(4, 0.0, 90.0), 64)
    views = run("ViewsFromImages", images=seen.images, masks=seen.masks, elevation=0.0).args[0]
    with torch.inference_mode():
        mesh = Types.MESH(**mesh_of(*surface(THREE_SOLIDS, 800)).gltf_tensors())
    painted, report = run("ProjectViews", mesh=mesh, views=views, texture_size=64).args
    assert painted.texture.shape == (1, 64, 64, 3) and painted.faces.shape == mesh.faces.shape
    assert "silhouettes agree to 0.9" in report
    with pytest.raises(ValueError, match="do not show this mesh"):
        run("ProjectViews", mesh=mesh, views=ball_views.args[0], texture_size=64)
    two = Types.MESH(mesh.vertices.repeat(2, 1, 1), mesh.faces.repeat(2, 1, 1))
    with pytest.raises(ValueError, match="a batch of 2"):
        run("ProjectViews", mesh=two, views=views, texture_size=64)
