"""The command line: complete help, one clear line and exit code 2 for bad input, and each stage's command on real files."""

import subprocess
import sys
from pathlib import Path

import pytest

from gd_core.cli import main
from gd_core.diffusion import load_mvdream
from gd_core.diffusion.bundle import save_bundle
from gd_core.nerf import load_field
from gd_core.views import load_views
from tests.distillation.conftest import sphere_views
from tests.random_models import random_mvdream

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "generate": ["--out", "--resume", "--overwrite", "--model", "--seed", "--focus", "--refine-steps", "--preset", "--faces"],
    "views": ["--out", "--model", "--seed", "--steps", "--guidance-scale", "--negative-prompt", "--focus", "--no-refocus"],
    "fit": ["--out", "--steps", "--seed", "--resume"],
    "refine": ["--out", "--model", "--steps", "--guidance-scale", "--preset", "--seed", "--resume"],
    "mesh": ["--out", "--overwrite", "--mesh-resolution", "--faces", "--texture-size", "--vertex-colors"],
    "render": ["--out", "--frames", "--size", "--elevation", "--distance", "--fov"],
    "convert": ["SRC", "DST", "--dtype"],
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
        (["generate", "a cube", "--out", "OUT", "--model", "MODEL", "--steps", "0"], "steps"),
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
