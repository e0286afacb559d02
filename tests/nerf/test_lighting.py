"""Light on a surface: harmless at first, never negative, and able to be Lambert's."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gd_core.nerf.lighting import Lighting


def directions(count: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_at_first_every_surface_is_as_bright():
    assert (Lighting()(directions(50)) == 1).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3).filter(lambda v: sum(x * x for x in v) > 0.01))
def test_lamberts_law_from_any_side_is_met_within_a_few_per_cent(towards):
    light, normals = Lighting(), directions(2000)
    sun = torch.nn.functional.normalize(torch.tensor(towards), dim=0)
    truth = 0.58 + 0.46 * (normals @ sun).clamp(min=0)
    # The model is linear in c: (1 + Y c) a = truth, solved for a and a c.
    harmonics = torch.cat([basis(light, normals), torch.ones(2000, 1)], dim=1)
    solution = torch.linalg.lstsq(harmonics, truth[:, None]).solution[:, 0]
    with torch.no_grad():
        light.coefficients.copy_(solution[:8] / solution[8])
    error = (solution[8] * light(normals)[:, 0] - truth).abs()
    assert error.mean() < 0.02 and error.max() < 0.08


def basis(light: Lighting, normals: torch.Tensor) -> torch.Tensor:
    """Each harmonic by itself, read off the module with one coefficient set at a time; small, so that nothing is cut off."""
    columns = []
    for index in range(8):
        with torch.no_grad():
            light.coefficients.zero_()[index] = 0.1
            columns.append((light(normals) - 1) / 0.1)
    return torch.cat(columns, dim=1)


def test_a_lamp_is_neither_bright_nor_dark_where_nobody_looks():
    light, normals = Lighting(), directions(50)
    with torch.no_grad():
        light.lamp.copy_(torch.tensor([0.6, 0.3, 0.0]))
    facing = torch.linspace(0, 1, 50)
    assert (light(normals) == 1).all()
    assert (light(normals, facing)[:, 0].diff() > 0).all() and (light.highlight(facing)[:, 0].diff() >= 0).all()
    assert light.highlight(facing)[-1] == 0.3 and light.highlight(-facing).abs().max() < 1e-6


def test_no_light_is_negative():
    light = Lighting()
    with torch.no_grad():
        light.coefficients[0] = 5
    shade = light(torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert shade[0] == 0 and shade[1] == 6
