"""A full disk leaves the old file as it was, and nothing beside it."""

import os
import resource
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from gd_core.diffusion.checkpoint import read_weights
from gd_core.files import SAFETENSORS, fingerprint, kind_of, read_tensors, whole_file, write_tensors, write_text
from gd_core.nerf import FieldConfig, RadianceField
from gd_core.nerf.encodings import EncodingConfig
from gd_core.runs import write_png
from gd_core.video import write_mp4

FULL_DISK = "/dev/full"


def test_an_error_on_the_way_keeps_the_old_file(tmp_path):
    path = tmp_path / "name.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left"), whole_file(path) as temporary:
        temporary.write_text("half")
        with open(FULL_DISK, "w") as full:
            full.write("x")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_tensors_are_written_whole(tmp_path):
    path = tmp_path / "name.safetensors"
    write_tensors(path, {"a": torch.arange(6).view(2, 3).T}, {"format": "x"})
    assert load_file(path)["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    with pytest.raises(OSError, match="name.safetensors"):
        write_tensors(path / "below.name.safetensors", {"a": torch.zeros(1)}, {})
    assert list(tmp_path.iterdir()) == [path]


def test_a_field_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path):
    field = RadianceField(FieldConfig(encoding=EncodingConfig(resolution=8, channels=2)))
    path = tmp_path / "object.field.safetensors"
    field.save(path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OSError, match="could not be written"):
            field.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_tensors(path, {"a": torch.zeros(1)}, {}),
        lambda path: write_text(path, "x"),
        lambda path: write_png(torch.zeros(4, 4, 3), path),
        lambda path: write_mp4(torch.zeros(1, 16, 16, 3), path),
        lambda path: RadianceField(FieldConfig(encoding=EncodingConfig(resolution=8, channels=2))).save(path),
    ],
    ids=["tensors", "text", "png", "mp4", "field"],
)
def test_a_new_file_has_the_mode_of_any_new_file_and_a_replaced_one_its_own(tmp_path, umask, write):
    before = os.umask(umask)
    try:
        write(tmp_path / "new")
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o640)
        write(tmp_path / "old")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o640


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "name.safetensors"
    write_tensors(path, {"a": torch.arange(3)}, {"format": "x", "version": 2, "more": [1]})
    tensors, header = read_tensors(path, "x", "an x", newest=2)
    assert tensors["a"].tolist() == [0, 1, 2] and header["more"] == [1]
    with pytest.raises(ValueError, match="reads up to 1: update"):
        read_tensors(path, "x", "an x")
    with pytest.raises(ValueError, match="name.safetensors does not hold a y"):
        read_tensors(path, "y", "a y")


@pytest.mark.parametrize(
    "header", [None, {}, {"header": "{"}, {"header": "[]"}, {"header": "3"}, {"header": "[" * 9000}, {"other": "x"}]
)
def test_files_of_others_are_refused(tmp_path, header):
    path = tmp_path / "name.safetensors"
    save_file({"a": torch.zeros(1)}, path, header)
    with pytest.raises(ValueError, match="name.safetensors does not hold an x"):
        read_tensors(path, "x", "an x")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "an empty file"), (b"<html>", "a web page"), (b"\xff" * 64, "cut short"), (bytes(8), "a file of zeros")],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, content, said):
    path = tmp_path / "name.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"name.safetensors is .*{said}"):
        read_tensors(path, "x", "an x")


@pytest.mark.parametrize("padding", range(0, 256, 8))
def test_a_safetensors_file_is_one_whatever_byte_its_header_length_begins_with(tmp_path, padding):
    """0x80 begins a pickle, too: one file in 32 was refused."""
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.ones(1)}, path, {"note": "x" * padding})
    assert kind_of(path) == SAFETENSORS and read_weights(path).keys() == {"a"}


def test_fingerprints_tell_contents_apart():
    ones = torch.ones(2, 3)
    configs = FieldConfig(), EncodingConfig(), EncodingConfig(channels=3)
    values = [ones, ones.T, ones.double(), ones * 2, [ones], *configs, "1", 1, (1, 2)]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint(ones, [1]) == fingerprint(ones.clone(), [1]) != fingerprint(ones, 1)
