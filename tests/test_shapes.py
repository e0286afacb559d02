"""The check of shapes is on, sees what is wrong, and leaves a function's own words to it."""

import jaxtyping
import pytest
import torch

from gd_core.cameras import Cameras, camera_conditioning, orbit_cameras
from gd_core.diffusion.batch import initial_noise
from gd_core.views import ViewSet
from tests.shapes import CHECKED


def test_the_check_is_on():
    assert "gd_core.cameras.camera_conditioning" in CHECKED and len(CHECKED) > 10


@pytest.mark.parametrize(
    "call",
    [
        lambda: camera_conditioning(torch.zeros(4, 5, 5)),
        lambda: camera_conditioning(orbit_cameras(2).c2w[0:1].expand(2, 4, 4).long()),
        lambda: Cameras(orbit_cameras(2).c2w.long(), torch.full((2,), 40.0)),
        lambda: ViewSet(torch.zeros(4, 8, 8, 3).double().int(), torch.zeros(4, 8, 8), orbit_cameras()),
    ],
    ids=["sizes", "whole numbers", "a dataclass", "a dataclass's type"],
)
def test_wrong_arrays_are_seen(call):
    with pytest.raises((jaxtyping.TypeCheckError, RuntimeError)):
        call()


def test_right_ones_are_not():
    assert initial_noise(0, 4, 8).shape == (4, 4, 8, 8)
    assert camera_conditioning(orbit_cameras(3).c2w).shape == (3, 16)


def test_a_function_refuses_in_its_own_words():
    with pytest.raises(ValueError, match="one camera for each view"):
        ViewSet(torch.zeros(4, 8, 8, 3), torch.zeros(4, 8, 8), orbit_cameras(3))
