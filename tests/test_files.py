"""A full disk leaves the old file as it was, and nothing beside it."""

import resource

import pytest
import torch
from safetensors.torch import load_file

from gd_core.files import whole_file, write_tensors
from gd_core.nerf import FieldConfig, RadianceField
from gd_core.nerf.encodings import EncodingConfig

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
