"""Mesh files and ComfyUI's tensors: what is written comes back, and what is no mesh is one clear error."""

import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from gd_core.mesh import from_gltf_tensors, load_mesh
from gd_core.mesh.surface import vertex_normals
from gd_core.mesh.triangle_mesh import TriangleMesh
from tests.mesh.test_project import plain


def box(textured: bool) -> TriangleMesh:
    """A box of three different sides, its corners coloured, or with an image of four colours on every face."""
    corners = trimesh.creation.box((1.0, 0.6, 0.3))
    vertices, faces = np.float32(corners.vertices), np.int64(corners.faces)
    if textured:
        vertices, faces = vertices[faces.ravel()], np.arange(3 * len(faces)).reshape(-1, 3)
    uvs = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]]).repeat(len(faces), 1)
    texture = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(1))
    return TriangleMesh(
        torch.from_numpy(vertices),
        torch.from_numpy(faces),
        torch.from_numpy(vertex_normals(vertices, faces)),
        torch.from_numpy(vertices + 0.5).clamp(0, 1),
        uvs=uvs if textured else None,
        texture=texture if textured else None,
    )


def in_order(points: torch.Tensor) -> torch.Tensor:
    """Corners of triangles, which files may number anew, sorted by the first columns that are not quantised."""
    return points[torch.from_numpy(np.lexsort(points[:, :5].round(decimals=3).T.numpy()))]


@pytest.mark.parametrize("textured", [True, False])
@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl"])
def test_what_we_write_comes_back(suffix, textured, tmp_path):
    mesh = box(textured)
    loaded = load_mesh(mesh.export(tmp_path / f"box.{suffix}"))
    assert len(loaded.faces) == len(mesh.faces)
    corners, again = mesh.vertices[mesh.faces].reshape(-1, 3), loaded.vertices[loaded.faces].reshape(-1, 3)
    assert torch.allclose(in_order(corners), in_order(again), atol=1e-4)
    volume = trimesh.Trimesh(loaded.vertices.numpy(), loaded.faces.numpy(), process=False).volume
    assert volume == pytest.approx(0.18, rel=1e-3)  # outside is outside
    if textured and suffix in ("glb", "obj"):
        assert torch.allclose(loaded.texture, mesh.texture, atol=1 / 250)
        own, theirs = (torch.cat((m.vertices, m.uvs), 1)[m.faces].reshape(-1, 5) for m in (mesh, loaded))
        assert torch.allclose(in_order(own), in_order(theirs), atol=1e-4)
    elif suffix != "stl" and not textured:
        for m in (mesh, loaded):  # its colours were made from its places
            assert torch.allclose(m.vertex_colors, (m.vertices + 0.5).clamp(0, 1), atol=0.01)


@pytest.mark.parametrize("textured", [True, False])
def test_comfyuis_tensors_come_back(textured):
    mesh = box(textured)
    again = from_gltf_tensors(**{name: t[0] for name, t in mesh.gltf_tensors().items() if name != "normals"})
    assert torch.allclose(again.vertices, mesh.vertices, atol=1e-6) and torch.equal(again.faces, mesh.faces)
    if textured:
        assert torch.equal(again.texture, mesh.texture) and torch.equal(again.uvs, mesh.uvs)
    else:
        assert torch.allclose(again.vertex_colors, mesh.vertex_colors, atol=1e-4)


def test_objects_stand_in_their_places_and_share_one_texture(tmp_path):
    scene = trimesh.Scene()
    for index, color in enumerate(((255, 0, 0), (0, 0, 255))):
        part = trimesh.creation.box((0.2, 0.2, 0.2))
        uv = np.random.default_rng(index).random((len(part.vertices), 2))
        part.visual = trimesh.visual.TextureVisuals(
            uv=uv, material=trimesh.visual.material.PBRMaterial(baseColorTexture=Image.new("RGB", (8, 8), color))
        )
        scene.add_geometry(part, transform=trimesh.transformations.translation_matrix((index, 0, 0)))
    scene.export(tmp_path / "two.glb")
    mesh = load_mesh(tmp_path / "two.glb")
    assert mesh.vertices[:, 0].max() == pytest.approx(1.1, abs=1e-3) and len(mesh.faces) == 24
    size = len(mesh.texture)
    column, row = (mesh.uvs * size).long().clamp(0, size - 1).unbind(1)
    seen = mesh.texture[row, column]
    right = mesh.vertices[:, 0] > 0.5
    assert (seen[right] - torch.tensor([0.0, 0.0, 1.0])).abs().max() < 0.2
    assert (seen[~right] - torch.tensor([1.0, 0.0, 0.0])).abs().max() < 0.2


def test_what_moves_is_left_out_and_said(tmp_path):
    path = box(False).export(tmp_path / "box.glb")
    data = path.read_bytes()
    (length,) = struct.unpack("<I", data[12:16])
    tree = json.loads(data[20 : 20 + length])
    tree["animations"] = [{"channels": [], "samplers": []}]
    tree["skins"] = [{"joints": [0]}]
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    head = struct.pack("<III", 0x46546C67, 2, 20 + len(text) + len(rest)) + struct.pack("<II", len(text), 0x4E4F534A)
    path.write_bytes(head + text + rest)
    mesh = load_mesh(path)
    assert mesh.report["left_out"] == ["animations", "skins"] and len(mesh.faces) == 12


def test_a_million_faces_are_read(tmp_path):
    vertices, faces = plain(1000)
    trimesh.Trimesh(vertices, faces, process=False).export(tmp_path / "large.ply")
    mesh = load_mesh(tmp_path / "large.ply")
    assert len(mesh.faces) == 1_000_000 and mesh.vertices.abs().max() == 1


def written(tmp_path, kind: str):
    if kind == "half a GLB":
        whole = box(True).export(tmp_path / "whole.glb").read_bytes()
        path = tmp_path / "bad.glb"
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "points alone":
        path = tmp_path / "bad.ply"
        trimesh.PointCloud(np.eye(3)).export(path)
    elif kind == "NaN":
        path = tmp_path / "bad.obj"
        path.write_text("v 0 0 0\nv 1 0 0\nv nan 1 0\nf 1 2 3\n")
    elif kind == "no faces":
        path = tmp_path / "bad.obj"
        path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    elif kind == "text":
        path = tmp_path / "bad.glb"
        path.write_text("this is no mesh")
    elif kind == "empty":
        path = tmp_path / "bad.stl"
        path.touch()
    else:
        path = tmp_path / "bad.fbx"
        path.touch()
    return path


@pytest.mark.parametrize("kind", ["half a GLB", "points alone", "NaN", "no faces", "text", "empty", "another format"])
def test_what_is_no_mesh_is_one_clear_error(kind, tmp_path):
    path = written(tmp_path, kind)
    with pytest.raises(ValueError, match="bad") as error:
        load_mesh(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    with pytest.raises(FileNotFoundError, match="no mesh at"):
        load_mesh(tmp_path / "missing.glb")


@pytest.mark.parametrize(
    ("vertices", "faces", "complaint"),
    [
        (torch.eye(3), torch.zeros(0, 3, dtype=torch.int64), "no faces"),
        (torch.eye(3) * float("nan"), torch.tensor([[0, 1, 2]]), "NaN"),
        (torch.eye(3), torch.tensor([[0, 1, 3]]), "outside 0..2"),
        (torch.eye(3), torch.tensor([[-1, 1, 2]]), "outside 0..2"),
    ],
)
def test_tensors_that_are_no_mesh(vertices, faces, complaint):
    with pytest.raises(ValueError, match=complaint):
        from_gltf_tensors(vertices, faces)


def test_a_mirrored_node_is_not_turned_inside_out(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.icosphere(1), transform=np.diag([-1.0, 1.0, 1.0, 1.0]))
    (tmp_path / "mirrored.glb").write_bytes(scene.export(file_type="glb"))
    mesh = load_mesh(tmp_path / "mirrored.glb")
    assert (mesh.normals * mesh.vertices).sum(1).min() > 0
