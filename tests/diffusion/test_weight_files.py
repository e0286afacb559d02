"""What is saved as a checkpoint: told by its first bytes, unwrapped where a trainer wrapped it, refused for the right cause."""

import gzip
import io
import tarfile
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from gd_core.diffusion.checkpoint import read_weights, weight_files
from gd_core.nerf import load_field
from gd_core.views import load_views

WEIGHTS = {"model.diffusion_model.a": torch.arange(4.0), "model.diffusion_model.b": torch.ones(2, 2)}
PAGE = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5214865159\n"


def same(weights: dict) -> bool:
    return weights.keys() == WEIGHTS.keys() and all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)


def packed(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("sd-v2.1-base-4view.pt", "x")
    else:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("sd-v2.1-base-4view.pt"))
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".ckpt"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (PAGE, "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
        (POINTER, "a git-lfs pointer"),
        (b'{"error": "Repository not found"}', "a JSON text"),
        (b"Entry not found\n", "a plain text"),
        (b"", "an empty file"),
        (b"\0" * 5000, "a file of zeros"),
        (gzip.compress(b"weights"), "gzip archive: unpack it"),
        (packed("tar"), "tar archive: unpack it"),
        (packed("zip"), "a zip archive"),
        (b"GGUF\x03\0\0\0", "a GGUF file"),
        (b"glTF\x02\0\0\0", "a mesh"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_checkpoint_is_named_for_what_it_is(tmp_path, suffix, content, what):
    path = tmp_path / f"sd-v2.1-base-4view{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"is not a checkpoint, but .*{what}") as caught:
        read_weights(path)
    assert "code" not in str(caught.value) or what == "a web page"


@pytest.mark.parametrize("read", [load_views, load_field])
@pytest.mark.parametrize(("content", "what"), [(PAGE, "a web page"), (POINTER, "a git-lfs pointer"), (b"", "an empty file")])
def test_so_are_views_and_fields(tmp_path, read, content, what):
    path = tmp_path / "field.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"field.safetensors is {what}"):
        read(path)


@pytest.mark.parametrize("name", ["weights.pt", "weights.SAFETENSORS", "weights.bin", "weights", "weights.PT"])
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_the_content_counts_and_not_the_suffix(tmp_path, name, form):
    path = tmp_path / name
    if form == "safetensors":
        path.write_bytes(save(WEIGHTS))
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=form == "zip")
    assert same(read_weights(path))


def test_a_folder_is_read_whatever_the_case_of_its_suffixes(tmp_path):
    save_file(WEIGHTS, tmp_path / "A.SafeTensors")
    torch.save(WEIGHTS, tmp_path / "b.PT")
    assert [path.name for path in weight_files(tmp_path)] == ["A.SafeTensors"]


class ModelCheckpoint:
    """Pickled under the name that Lightning's callback has."""


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"

LIGHTNING = {"epoch": 3, "global_step": np.float64(7), "pytorch-lightning_version": "2.0", "lr_schedulers": [{"last": 1}]}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w},
        lambda w: {"state_dict": w, "optimizer_states": [{"state": {0: torch.ones(1)}}], **LIGHTNING},
        lambda w: {"state_dict": {f"model.{name}": value for name, value in w.items()}, **LIGHTNING},
        lambda w: {"state_dict": {f"_forward_module.{name}": value for name, value in w.items()}},
        lambda w: {"module": w},
        lambda w: {"model": {f"module.{name}": value for name, value in w.items()}, "step": 5},
        lambda w: {"model_state_dict": w, "optimizer_state_dict": {}},
        lambda w: {name.replace("model.", "model._orig_mod.", 1): value for name, value in w.items()},
        lambda w: {"state_dict": {"model": w}},
        lambda w: w | {"epoch": 3, "name": "finetuned"},
    ],
)
def test_what_trainers_wrap_around_weights_is_taken_off(tmp_path, wrap):
    torch.save(wrap(dict(WEIGHTS)), tmp_path / "wrapped.ckpt")
    assert same(read_weights(tmp_path / "wrapped.ckpt"))


def test_a_lightning_callbacks_name_is_read_past(tmp_path, monkeypatch):
    modules = {}
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", ModelCheckpoint.__module__):
        modules[name] = Namespace(ModelCheckpoint=ModelCheckpoint)
        monkeypatch.setitem(__import__("sys").modules, name, modules[name])
    torch.save({"state_dict": WEIGHTS, "callbacks": {ModelCheckpoint: {"best": 1.0}}}, tmp_path / "run.ckpt")
    for name in modules:
        monkeypatch.delitem(__import__("sys").modules, name)
    assert same(read_weights(tmp_path / "run.ckpt"))


class RunsOnLoad:
    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": RunsOnLoad()}, "was refused: it holds more than weights .code that would run on loading: .*open"),
        ({"state_dict": {"epoch": 3}}, "holds no weights: nothing in it is a tensor"),
        ([torch.ones(1)], "holds no dictionary of weights, but list"),
        ({}, "holds no weights"),
    ],
)
def test_checkpoints_without_weights_or_with_code_say_so(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "odd.pt")
    with pytest.raises(ValueError, match=message):
        read_weights(Path("odd.pt"))
    assert not Path("executed").exists()


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_a_checkpoint_that_is_cut_short_is_not_called_code(tmp_path, form):
    path = tmp_path / "cut.pt"
    large = {"model.diffusion_model.a": torch.rand(4000)}
    if form == "safetensors":
        path.write_bytes(save(large))
    else:
        torch.save(large, path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match="cut.pt is .* damaged or cut short.*download it again") as caught:
        read_weights(path)
    assert "code" not in str(caught.value)
