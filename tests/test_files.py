"""A full disk leaves the old file as it was, and nothing beside it."""

import os
import resource
import stat

import pytest
import torch
from safetensors.torch import load_file

from gd_core.files import whole_file, write_tensors, write_text
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
