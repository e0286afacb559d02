"""The command line: complete help, one clear line and exit code 2 for bad input, and each stage's command on real files."""

import subprocess
import sys
from pathlib import Path

import pytest
import trimesh

from gd_core.cli import main
from gd_core.diffusion import load_mvdream
from gd_core.diffusion.bundle import save_bundle
from gd_core.nerf import load_field
from gd_core.views import load_views
from tests.distillation.conftest import sphere_views
from tests.random_models import random_mvdream

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "generate": ["--out", "--resume", "--overwrite", "--model", "--lora", "--seed", "--focus", "--refine-steps", "--faces"],
    "views": ["--out", "--model", "--lora", "--seed", "--steps", "--guidance-scale", "--negative-prompt", "--focus"],
    "fit": ["--out", "--steps", "--seed", "--resume"],
    "refine": ["--out", "--model", "--lora", "--steps", "--guidance-scale", "--preset", "--seed", "--resume"],
    "mesh": ["--out", "--overwrite", "--mesh-resolution", "--faces", "--texture-size", "--vertex-colors"],
    "render": ["--out", "--frames", "--size", "--elevation", "--distance", "--fov"],
    "convert": ["SRC", "DST", "--dtype", "--lora"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model bundle, views, and a field fitted to them."""
    folder = tmp_path_factory.mktemp("cli")
    save_bundle(random_mvdream(folder / "tokenizer"), folder / "model")
    sphere_views().save(folder / "views.safetensors")
    assert main(["fit", str(folder / "views.safetensors"), "--out", str(folder / "field.safetensors"), "--steps", "30"]) == 0
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert all(option in text for option in COMMANDS[command])


def test_help_of_the_whole_lists_the_commands_fast():
    """--help must not import torch."""
    code = "import sys; from gd_core.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in [*COMMANDS, "evaluate"])


def test_refine_mesh_and_render(folder, tmp_path, capsys):
    field, views, model = (str(folder / name) for name in ("field.safetensors", "views.safetensors", "model"))
    refined, mesh = str(tmp_path / "refined.safetensors"), str(tmp_path / "mesh.glb")
    assert main(["refine", field, views, "--model", model, "--out", refined, "--steps", "2"]) == 0
    assert load_field(refined).provenance["refine"]["config"]["steps"] == 2
    assert main(["mesh", refined, "--out", mesh, "--mesh-resolution", "32", "--faces", "500", "--texture-size", "64"]) == 0
    assert Path(mesh).read_bytes()[:4] == b"glTF"
    for name in ("turn.mp4", "turn.png"):
        assert main(["render", field, "--out", str(tmp_path / name), "--frames", "2", "--size", "32"]) == 0
        assert (tmp_path / name).stat().st_size > 0
    assert "Traceback" not in capsys.readouterr().err


def test_views(folder, tmp_path):
    out = tmp_path / "views.safetensors"
    args = ["views", "a red cube", "--model", str(folder / "model"), "--steps", "2", "--seed", "3", "--out", str(out)]
    assert main([*args, "--focus", '{"v": 1, "focus": [{"word": "cube", "weight": 2}]}']) == 0
    assert load_views(out).seed == 3 and "cube" in load_views(out).attention
    assert (tmp_path / "views.png").exists()


def test_convert(folder, tmp_path):
    assert main(["convert", str(folder / "model"), str(tmp_path / "copy"), "--dtype", "fp32"]) == 0
    assert load_mvdream(tmp_path / "copy").config.name == "random MVDream"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate", "--out", "OUT"], "say what to make"),
        (["generate", "--resume", "OUT"], "no run to resume"),
        (["generate", "a cube", "--out", "OUT", "--model", "nowhere"], "nowhere"),
        (["generate", "", "--out", "OUT", "--model", "MODEL"], "prompt"),
        (["generate", "a cube", "--out", "OUT", "--model", "MODEL", "--seed", "-1"], "seed"),
        (["generate", "a cube", "--out", "OUT", "--model", "MODEL", "--steps", "-1"], "steps"),
        (["generate", "a cube", "--out", "OUT", "--model", "MODEL", "--focus", "{"], "JSON"),
        (["generate", "a cube", "--out", "OUT", "--model", "MODEL", "--faces", "3"], "target_faces"),
        (["fit", "missing.safetensors", "--out", "OUT.safetensors"], "missing.safetensors"),
        (["fit", "FIELD", "--out", "OUT.safetensors"], "does not hold views"),
        (["refine", "VIEWS", "VIEWS", "--out", "OUT.safetensors"], "does not hold a NeRF field"),
        (["mesh", "FIELD", "--out", "OUT.xyz"], "OUT.xyz"),
        (["mesh", "FIELD", "--out", "FIELD"], "its suffix must be one of"),
        (["render", "FIELD", "--out", "OUT.gif"], ".mp4"),
        (["render", "FIELD", "--out", "nowhere/turn.mp4"], "there is no folder"),
        (["convert", "missing.pt", "OUT"], "missing.pt"),
        (["views", "a cube", "--out", "cats.png"], "let its name end in .safetensors"),
        (["fit", "VIEWS", "--out", "field.glb"], "let its name end in .safetensors"),
        (["refine", "FIELD", "VIEWS", "--out", "field"], "let its name end in .safetensors"),
        (["calibrate", "labels.json", "--out", "recipe.txt"], "let its name end in .json"),
        (["generate", "a cube", "--out", "OUT", "--model", "MODEL", "--steps", "0"], "steps"),
        (["generate", "a cube", "--out", "OUT", "--model", "MODEL", "--guidance-scale", "0"], "guidance"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, tmp_path, args, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": "model", "VIEWS": "views.safetensors", "FIELD": "field.safetensors"}
    args = [str(folder / names[a]) if a in names else a for a in args]
    assert main(args) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and message in error[0]
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.rglob("*.safetensors"))


LONG = "ü" * 130 + ".safetensors"  # 142 signs, 272 bytes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--turntable-size", "33"], "even number of pixels"),
        (["--turntable-size", "8"], "16 to 4096 pixels"),
        (["--turntable-frames", "0"], "1 to 1000 frames"),
        (["--negative-prompt", "red " * 90], "the negative prompt has 90 tokens"),
        (["--focus", '{"v": 1, "focus": [{"word": "dog"}]}'], "dog"),
        (["--texture-size", "7"], "texture_size"),
        (["--refine-steps", "-1"], "at least 1 step"),
        (["--fit-steps", "0"], "at least one step"),
        (["--out", "a file/run"], "is a file"),
        (["--out", "ü" * 130], "its name has 260 bytes"),
        (["--overwrite", "--turntable-size", "33"], "even number of pixels"),
    ],
)
def test_generate_checks_everything_before_it_samples_and_claims_nothing(folder, tmp_path, args, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").touch()
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier/views.safetensors").write_bytes(b"mine")
    out = ["--out", "earlier"] if "--overwrite" in args else [] if "--out" in args else ["--out", "OUT"]
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("gd_core.pipeline.sample_views", lambda *args, **more: pytest.fail("views were sampled"))
    assert main(["generate", "a red cube", "--model", str(folder / "model"), *out, *args]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "earlier/views.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("command", "out"),
    [
        (["views", "a red cube", "--model", "MODEL"], "mine.safetensors"),
        (["fit", "VIEWS"], "mine.safetensors"),
        (["refine", "FIELD", "VIEWS", "--model", "MODEL"], "mine.safetensors"),
        (["mesh", "FIELD"], "mine.glb"),
        (["mesh", "FIELD"], "mine.STL"),
        (["render", "FIELD"], "mine.mp4"),
        (["render", "FIELD"], "mine.PNG"),
        (["convert", "MODEL"], "mine"),
    ],
)
def test_no_command_overwrites_unasked(folder, tmp_path, command, out, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": "model", "VIEWS": "views.safetensors", "FIELD": "field.safetensors"}
    command = [str(folder / names[a]) if a in names else a for a in command]
    mine = tmp_path / out / "weights" if command[0] == "convert" else tmp_path / out
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(b"mine")
    where = [out] if command[0] == "convert" else ["--out", out]
    for module in ("load_mvdream", "fit_views", "extract_mesh", "render_orbit"):
        monkeypatch.setattr(f"gd_core.commands.{module}", lambda *args, **more: pytest.fail("work was begun"))
    assert main([*command, *where]) == 2
    assert "overwrit" in capsys.readouterr().err and mine.read_bytes() == b"mine"


def test_views_do_not_overwrite_pictures_either(folder, tmp_path, capsys):
    (tmp_path / "mine.png").write_bytes(b"mine")
    assert main(["views", "a red cube", "--out", str(tmp_path / "mine.safetensors")]) == 2
    assert "mine.png exists" in capsys.readouterr().err and (tmp_path / "mine.png").read_bytes() == b"mine"


@pytest.mark.parametrize("command", [["fit", "VIEWS"], ["mesh", "FIELD"], ["views", "a cube"]])
def test_names_are_counted_in_bytes(folder, tmp_path, command, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"VIEWS": "views.safetensors", "FIELD": "field.safetensors"}
    command = [str(folder / names[a]) if a in names else a for a in command]
    assert main([*command, "--out", LONG.replace(".safetensors", ".glb") if command[0] == "mesh" else LONG]) == 2
    assert "bytes" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_stl_is_as_long_as_is_asked_and_suffixes_have_any_case(folder, tmp_path):
    sizes = {}
    for name, more in {"default.STL": [], "small.stl": ["--print-size", "40"], "units.stl": ["--print-size", "0"]}.items():
        out = tmp_path / name
        coarse = ["--mesh-resolution", "32", "--faces", "500", "--vertex-colors"]
        assert main(["mesh", str(folder / "field.safetensors"), "--out", str(out), *coarse, *more]) == 0
        mesh = trimesh.load(out, file_type="stl")
        sizes[name] = float(mesh.extents.max())
        assert name == "units.stl" or abs(float(mesh.bounds[0, 2])) < 1e-3  # it stands on the bed
    assert sizes["default.STL"] == pytest.approx(100, rel=1e-4) and sizes["small.stl"] == pytest.approx(40, rel=1e-4)
    assert sizes["units.stl"] < 2.1
    assert main(["mesh", str(folder / "field.safetensors"), "--out", str(tmp_path / "x.stl"), "--print-size", "-1"]) == 2
