"""Files: what is in them, what other readers see, and that a failure leaves nothing behind."""

import io
import json
import resource
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gd_core.mesh import TriangleMesh, encode_mesh, write_together
from gd_core.mesh.triangle_mesh import srgb_to_linear, z_up_to_y_up
from tools.mesh_scenes import BLUE, GREEN, RED, THREE_SOLIDS

NODE_MODULES = Path(__file__).parents[1] / "js" / "node_modules"
EXTRAS = {"prompt": "a red cube, a blue sphere", "seed": 7, "settings": {"resolution": 64}, "workflow": '{"nodes": []}'}
VALIDATE = """
const validator = require(process.argv[1]), fs = require("fs");
const bytes = new Uint8Array(fs.readFileSync(process.argv[2]));
validator.validateBytes(bytes).then((report) => console.log(JSON.stringify(report)));
"""


class Glb:
    """A GLB read by the letter of the glTF 2.0 specification, with no library."""

    COMPONENTS = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
    WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        magic, version, length, json_length, json_type = struct.unpack("<4sIIII", data[:20])
        assert (magic, version, length, json_type) == (b"glTF", 2, len(data), 0x4E4F534A)
        self.tree = json.loads(data[20 : 20 + json_length])
        self.binary = data[28 + json_length :]

    def view(self, index: int) -> bytes:
        view = self.tree["bufferViews"][index]
        return self.binary[view.get("byteOffset", 0) :][: view["byteLength"]]

    def accessor(self, index: int) -> np.ndarray:
        accessor = self.tree["accessors"][index]
        width, dtype = self.WIDTHS[accessor["type"]], self.COMPONENTS[accessor["componentType"]]
        data = self.view(accessor["bufferView"])[accessor.get("byteOffset", 0) :]
        return np.frombuffer(data, dtype, accessor["count"] * width).reshape(-1, width)

    def attributes(self, mesh: int) -> dict[str, np.ndarray]:
        return {k: self.accessor(v) for k, v in self.tree["meshes"][mesh]["primitives"][0]["attributes"].items()}

    def texture(self) -> np.ndarray:
        material = self.tree["materials"][0]["pbrMetallicRoughness"]
        image = self.tree["images"][self.tree["textures"][material["baseColorTexture"]["index"]]["source"]]
        return np.asarray(Image.open(io.BytesIO(self.view(image["bufferView"]))).convert("RGB")) / 255


def test_glb_follows_the_specification(textured_mesh, tmp_path):
    glb = Glb(textured_mesh.export(tmp_path / "scene.glb", extras=EXTRAS))
    assert glb.tree["asset"] == {"version": "2.0", "generator": "Grounded-Dreamer", "extras": EXTRAS}
    assert [mesh["name"] for mesh in glb.tree["meshes"]] == ["piece 1", "piece 2", "piece 3"]
    assert len(glb.tree["materials"]) == len(glb.tree["images"]) == 1
    material = glb.tree["materials"][0]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0 and not material.get("doubleSided", False)
    texture, faces = glb.texture(), 0
    for index in range(3):
        attributes = glb.attributes(index)
        assert set(attributes) == {"POSITION", "NORMAL", "TEXCOORD_0"}
        x, y, z = attributes["POSITION"].T
        expected = THREE_SOLIDS.color(torch.from_numpy(np.stack((x, -z, y), axis=1)))
        column, row = np.clip(attributes["TEXCOORD_0"] * len(texture), 0, len(texture) - 1).astype(int).T
        assert np.abs(texture[row, column] - expected.numpy()).mean() < 0.01
        faces += glb.tree["accessors"][glb.tree["meshes"][index]["primitives"][0]["indices"]]["count"] // 3
    assert faces == len(textured_mesh.faces)


def test_glb_vertex_colours_are_linear_as_gltf_demands(vertex_colored_mesh, tmp_path):
    glb = Glb(vertex_colored_mesh.export(tmp_path / "scene.glb"))
    assert "extras" not in glb.tree["asset"] and "images" not in glb.tree
    found = sorted(np.median(glb.attributes(i)["COLOR_0"][:, :3] / 65535, axis=0).tolist() for i in range(3))
    wanted = sorted(srgb_to_linear(torch.tensor([RED, BLUE, GREEN])).tolist())
    np.testing.assert_allclose(found, wanted, atol=0.002)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.skipif(not (NODE_MODULES / "gltf-validator").is_dir(), reason="run `npm ci` in tests/js for the Khronos validator")
@pytest.mark.parametrize("fixture", ["textured_mesh", "vertex_colored_mesh", "mesh_of_words"])
def test_khronos_validator_finds_nothing(fixture, request, tmp_path):
    path = request.getfixturevalue(fixture).export(tmp_path / "scene.glb", extras=EXTRAS)
    command = ["node", "-e", VALIDATE, str(NODE_MODULES / "gltf-validator"), str(path)]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert report["issues"]["messages"] == []
    assert report["info"]["totalTriangleCount"] == len(request.getfixturevalue(fixture).faces)


def test_drawn_by_another_renderer_it_looks_like_the_field(textured_mesh, tmp_path):
    pyvista = pytest.importorskip("pyvista", reason="pyvista draws the exported file")
    if not pyvista.system_supports_plotting():
        pytest.skip("no off-screen OpenGL here")
    from gd_core.cameras import orbit_cameras  # noqa: PLC0415
    from tools.bench_mesh import render_analytic, render_glb  # noqa: PLC0415 (imports VTK)
    from tools.mesh_scenes import psnr  # noqa: PLC0415

    cameras = orbit_cameras(2, elevation_deg=20, azimuth_start_deg=30)
    drawn = render_glb(textured_mesh.export(tmp_path / "scene.glb"), cameras, 64)
    assert psnr(drawn, render_analytic(THREE_SOLIDS, cameras, 64)) > 20


random_meshes = st.tuples(st.integers(0, 10_000), st.integers(1, 30), st.booleans())


def random_mesh(seed: int, faces: int, textured: bool) -> TriangleMesh:
    """Loose triangles, each a piece of its own, with random colours."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(3 * faces, 3, generator=generator) * 2 - 1
    return TriangleMesh(
        vertices=corners,
        faces=torch.arange(3 * faces).view(faces, 3),
        normals=torch.nn.functional.normalize(torch.randn(3 * faces, 3, generator=generator), dim=1),
        vertex_colors=torch.rand(3 * faces, 3, generator=generator),
        uvs=torch.rand(3 * faces, 2, generator=generator) if textured else None,
        texture=torch.rand(16, 16, 3, generator=generator) if textured else None,
        part=torch.arange(faces) % 3 if faces > 2 else None,
        part_names=("a", "b", "c") if faces > 2 else (),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=random_meshes, suffix=st.sampled_from([".glb", ".obj", ".ply", ".stl"]))
def test_what_is_written_is_what_is_read_back(arguments, suffix, tmp_path):
    mesh = random_mesh(*arguments)
    path = mesh.export(tmp_path / f"scene{suffix}", overwrite=True)
    read = trimesh.load(path, force="mesh", process=False)
    expected = mesh.y_up() if suffix in (".glb", ".obj") else mesh
    triangles = {tuple(np.round(t, 4).ravel() + 0.0) for t in expected.vertices[expected.faces].numpy().astype(np.float64)}
    got = {tuple(np.round(t, 4).ravel() + 0.0) for t in read.triangles}
    assert len(read.faces) == len(mesh.faces)
    for one in (triangles - got):  # rounding may fall either way: then another one is next to it
        assert np.abs(np.array(list(got)) - np.array(one)).max(1).min() < 2e-4
    if suffix == ".ply":
        colors = read.visual.vertex_colors[read.faces][:, :, :3] / 255
        np.testing.assert_allclose(colors, expected.vertex_colors[expected.faces].numpy(), atol=0.003)


unit_floats = st.floats(-1, 1, width=32)


@given(vector=st.tuples(unit_floats, unit_floats, unit_floats))
def test_y_up_is_a_rotation_that_takes_up_to_up_and_front_to_front(vector):
    point = torch.tensor([vector])
    turned = z_up_to_y_up(point)
    assert turned.norm() == pytest.approx(float(point.norm()), abs=1e-6)
    assert turned[0, 1] == point[0, 2]
    rotation = z_up_to_y_up(torch.eye(3)).T
    assert torch.linalg.det(rotation) == pytest.approx(1)
    assert z_up_to_y_up(torch.tensor([[0.0, -1.0, 0.0]])).tolist() == [[0.0, 0.0, 1.0]]  # azimuth 0 faces glTF's front, +z


def test_tensors_for_comfyui(textured_mesh, vertex_colored_mesh):
    tensors = textured_mesh.gltf_tensors()
    n, f = len(textured_mesh.vertices), len(textured_mesh.faces)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "vertices": (1, n, 3),
        "faces": (1, f, 3),
        "normals": (1, n, 3),
        "uvs": (1, n, 2),
        "texture": (1, 256, 256, 3),
    }
    assert torch.equal(tensors["vertices"][0], z_up_to_y_up(textured_mesh.vertices))
    colored = vertex_colored_mesh.gltf_tensors()
    assert "texture" not in colored and "uvs" not in colored
    assert (colored["vertex_colors"][0] < vertex_colored_mesh.vertex_colors + 1e-6).all()


def test_obj_comes_with_its_material_and_texture(textured_mesh, tmp_path):
    path = textured_mesh.export(tmp_path / "my scene.obj")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my scene.obj", "my_scene_4fcbe20a.mtl", "my_scene_4fcbe20a.png"]
    material = tmp_path / "my_scene_4fcbe20a.mtl"
    assert f"mtllib {material.name}" in path.read_text() and f"map_Kd {material.stem}.png" in material.read_text()
    read = trimesh.load(path, force="mesh", process=False)
    colors = read.visual.to_color().vertex_colors[:, :3] / 255
    x, y, z = read.vertices.T
    expected = THREE_SOLIDS.color(torch.from_numpy(np.stack((x, -z, y), axis=1)).float()).numpy()
    assert np.abs(colors - expected).mean() < 0.01


def test_the_file_is_closed_once_its_texture_seams_are_welded(textured_mesh, tmp_path):
    read = trimesh.load(textured_mesh.export(tmp_path / "scene.glb"), force="mesh")
    read.merge_vertices(merge_tex=True, merge_norm=True)
    assert read.is_watertight and read.is_winding_consistent and len(read.split()) == 3
    assert read.volume == pytest.approx(sum(textured_mesh.report["piece_volumes"]), rel=1e-3)


def test_an_existing_file_is_replaced_only_when_asked(vertex_colored_mesh, tmp_path):
    path = tmp_path / "scene.stl"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"scene\.stl exists"):
        vertex_colored_mesh.export(path)
    assert path.read_bytes() == b"mine"
    vertex_colored_mesh.export(path, overwrite=True)
    assert path.stat().st_size > 1000 and list(tmp_path.iterdir()) == [path]


def test_names_that_look_alike_share_no_file(textured_mesh, tmp_path):
    for name in ("q r", "q_r", "q#r", "q  r", "q%r"):
        textured_mesh.export(tmp_path / f"{name}.obj")
    assert len(list(tmp_path.iterdir())) == 15
    for path in tmp_path.glob("*.obj"):
        trimesh.load(path, force="mesh", process=False).visual.to_color()


def test_all_files_of_a_mesh_or_none(textured_mesh, tmp_path, monkeypatch):
    (tmp_path / "scene.png").write_bytes(b"mine")
    files = {}
    for name in ("scene.glb", "scene.obj", "scene.stl"):
        files |= encode_mesh(textured_mesh, tmp_path / name, {})
    with pytest.raises(FileExistsError, match=r"scene\.png exists"):
        write_together(files, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.png"]
    (tmp_path / "scene.png").unlink()
    placed, replace = [], Path.replace

    def fail_at_the_third(path, target):
        placed.append(path)
        if len(placed) == 3:
            raise OSError(5, "Input/output error")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail_at_the_third)
    with pytest.raises(OSError, match="nothing was left behind"):
        write_together(files, overwrite=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [1.0, 100.0, 250.0])
def test_an_stl_for_print_is_as_long_as_asked_and_stands_on_the_bed(vertex_colored_mesh, tmp_path, size):
    printed = trimesh.load(vertex_colored_mesh.export(tmp_path / "scene.STL", print_mm=size), file_type="stl")
    assert printed.extents.max() == pytest.approx(size, rel=1e-5)
    assert printed.bounds[0, 2] == pytest.approx(0, abs=1e-4 * size)
    assert printed.bounds.mean(0)[:2] == pytest.approx([0, 0], abs=1e-4 * size)
    plain = trimesh.load(vertex_colored_mesh.export(tmp_path / "plain.stl"), file_type="stl")
    np.testing.assert_allclose(plain.extents, np.ptp(vertex_colored_mesh.vertices.numpy(), axis=0), rtol=1e-5)
    with pytest.raises(ValueError, match="print size"):
        vertex_colored_mesh.export(tmp_path / "x.stl", print_mm=-size)


def test_an_existing_texture_stops_an_obj(textured_mesh, tmp_path):
    (tmp_path / "scene.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"scene\.png exists"):
        textured_mesh.export(tmp_path / "scene.obj")
    assert [p.name for p in tmp_path.iterdir()] == ["scene.png"]


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_a_full_disk_leaves_old_files_whole_and_no_new_ones(suffix, textured_mesh, tmp_path):
    path = textured_mesh.export(tmp_path / f"scene{suffix}")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # what the kernel then says is what a full disk says
    try:
        with pytest.raises(OSError, match="could not be written.*nothing was left behind"):
            textured_mesh.export(path, overwrite=True)
        with pytest.raises(OSError, match="could not be written"):
            textured_mesh.export(tmp_path / f"other{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_unwritable_paths_say_so(textured_mesh, tmp_path):
    with pytest.raises(FileNotFoundError, match="its folder .* does not exist"):
        textured_mesh.export(tmp_path / "missing" / "scene.glb")
    (tmp_path / "folder.obj").mkdir()
    with pytest.raises(OSError, match=r"folder\.obj is a folder"):
        textured_mesh.export(tmp_path / "folder.obj", overwrite=True)
    with pytest.raises(OSError, match="name too long"):
        textured_mesh.export(tmp_path / ("long" * 100 + ".glb"))
    with pytest.raises(ValueError, match=r"suffix must be one of \.glb, \.obj, \.ply, \.stl"):
        textured_mesh.export(tmp_path / "scene.fbx")
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        textured_mesh.export(tmp_path / "scene.glb", extras={"loss": float("nan")})
    assert [p.name for p in tmp_path.iterdir()] == ["folder.obj"]


def test_a_read_only_folder_says_so(textured_mesh, tmp_path):
    tmp_path.chmod(0o500)
    try:
        if (tmp_path / "probe").parent.stat().st_uid == 0:
            pytest.skip("root may write anywhere")
        with pytest.raises(PermissionError, match="could not be written"):
            textured_mesh.export(tmp_path / "scene.glb")
    finally:
        tmp_path.chmod(0o700)


def test_meshes_that_cannot_be_are_refused():
    good = random_mesh(0, 2, False)
    parts = {"vertices": good.vertices, "normals": good.normals, "vertex_colors": good.vertex_colors}
    with pytest.raises(ValueError, match="at least one face"):
        TriangleMesh(faces=good.faces[:0], **parts)
    with pytest.raises(ValueError, match=r"outside 0\.\.5"):
        TriangleMesh(faces=good.faces + 1, **parts)
    with pytest.raises(ValueError, match="both uvs and a texture"):
        TriangleMesh(faces=good.faces, uvs=torch.zeros(6, 2), **parts)
    with pytest.raises(ValueError, match="NaN"):
        TriangleMesh(faces=good.faces, **{**parts, "vertices": good.vertices * float("nan")})
