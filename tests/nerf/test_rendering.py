"""Compositing against its formula, marching against the brute force, and rendered outputs against analytic ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gd_core.cameras import orbit_cameras
from gd_core.nerf import FieldConfig, RadianceField
from gd_core.nerf.compositing import pack, render_weights
from gd_core.nerf.hull import cell_centres
from gd_core.nerf.occupancy import OccupancyGrid, intersect_box
from tests.nerf.conftest import SMALL, draw


@settings(max_examples=30, deadline=None)
@given(rays=st.integers(1, 6), strata=st.integers(1, 12), seed=st.integers(0, 2**16), scale=st.floats(0.1, 1e4))
def test_weights_follow_the_compositing_formula(rays, strata, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(rays, strata, generator=generator) < 0.6
    t = torch.arange(strata).expand(rays, strata) * 0.1
    samples = pack(keep, t.contiguous(), 0.1)
    density = scale * torch.rand(len(samples.ray), generator=generator)
    weights = render_weights(samples, density)
    expected = []
    for ray in range(rays):
        transmittance = 1.0
        for sigma in density[samples.ray == ray].double():
            alpha = float(-torch.expm1(-sigma * 0.1))
            expected.append(transmittance * alpha)
            transmittance *= 1 - alpha
    torch.testing.assert_close(weights, torch.tensor(expected), atol=1e-5, rtol=1e-4)
    assert (samples.sum(weights) <= 1 + 1e-5).all()


def sphere_grid(resolution: int = 32) -> OccupancyGrid:
    grid = OccupancyGrid(resolution, 1.0)
    axis = (torch.arange(resolution) + 0.5) / resolution * 2 - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    grid.set_hull((x + 0.2) ** 2 + y**2 + z**2 < 0.5**2)
    return grid


def test_march_keeps_exactly_the_samples_in_occupied_cells():
    grid = sphere_grid()
    origins, directions = (r.reshape(-1, 3) for r in orbit_cameras(2, 20).rays(12, 12))
    near, far = intersect_box(origins, directions, grid.bounds)
    samples = grid.march(origins, directions, 0.05, torch.Generator().manual_seed(0))
    points = origins[samples.ray] + samples.t[:, None] * directions[samples.ray]
    assert grid.lookup(points).all()
    assert ((samples.t >= near[samples.ray]) & (samples.t < far[samples.ray])).all()
    middle = grid.march(origins, directions, 0.05)
    brute = (near[:, None] + (torch.arange(100) + 0.5) * 0.05) * (near < far)[:, None]
    inside = grid.lookup(origins[:, None] + brute[..., None] * directions[:, None]) & (brute < far[:, None]) & (brute > 0)
    assert len(middle.ray) == int(inside.sum()) > 0


def test_rays_past_the_box_change_nothing():
    """They are left out before anything is sampled; with the distances given, all are looked at."""
    grid = OccupancyGrid(16, 1.0)
    axis = torch.linspace(-1, 1, 16)
    grid.set_hull(torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0) < 0.5)
    origins, directions = (r.flatten(0, 2) for r in orbit_cameras(2).rays(24, 24))
    span = intersect_box(origins, directions, grid.bounds)
    assert 0.1 < (span[0] < span[1]).float().mean() < 0.7
    for place in (lambda: None, lambda: torch.Generator().manual_seed(3)):
        some, every = grid.march(origins, directions, 0.05, place()), grid.march(origins, directions, 0.05, place(), span)
        assert torch.equal(some.ray, every.ray) and torch.equal(some.t, every.t) and torch.equal(some.slot, every.slot)
        assert (some.num_rays, some.max_samples) == (every.num_rays, every.max_samples)
    away = grid.march(origins, -directions, 0.05)
    assert len(away.t) == 0 and away.num_rays == len(origins)


def test_march_skips_what_is_hidden_and_nothing_that_is_seen():
    grid = sphere_grid()
    grid.update(lambda points: torch.full((len(points),), 200.0), 1.0, torch.Generator().manual_seed(0))
    origins, directions = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[-1.0, 0.0, 0.0]])
    opaque = grid.march(origins, directions, 0.05)
    assert 2 <= len(opaque.ray) <= 6  # of the twenty strata that the sphere is deep
    assert float(opaque.t[0]) == pytest.approx(3.0 - 0.3, abs=0.06)


def test_rays_that_miss_see_the_background():
    field = RadianceField(SMALL)
    out = field.render_rays(torch.tensor([[5.0, 5.0, 5.0]]), torch.tensor([[1.0, 0.0, 0.0]]), 0.3)
    assert out.alpha.item() == 0 and out.depth.item() == 0
    torch.testing.assert_close(out.rgb, torch.full((1, 3), 0.3))
    field.occupancy.set_hull(torch.zeros_like(field.occupancy.hull))
    empty = field.render(orbit_cameras(1), 8, 6)
    assert empty.rgb.shape == (1, 8, 6, 3) and (empty.rgb == 1).all() and (empty.alpha == 0).all()


class Ball(RadianceField):
    """A field that is an opaque red ball of radius 0.5, whatever its encoding says."""

    def __init__(self, config):
        super().__init__(config)
        with torch.no_grad():
            distance = cell_centres(64, self.device).norm(dim=1) - 0.5
            self.shape.grids[-1].copy_(distance.view_as(self.shape.grids[-1]))
            self.shape.softness.fill_(0.003)

    def albedo(self, points):
        return points.new_tensor([0.993, 0.007, 0.007]).expand(len(points), 3)


@pytest.fixture
def ball() -> RadianceField:
    return Ball(FieldConfig(occupancy_resolution=32, step=0.02))


def test_outputs_of_an_opaque_ball(ball):
    cameras = orbit_cameras(3, [0, 40, -70])
    out = ball.render(cameras, 33, 33)
    truth = draw(cameras, 33, (((0.0, 0.0, 0.0), 0.5, (1.0, 0.0, 0.0)),))
    assert ((out.alpha > 0.5) != (truth.masks > 0.5)).float().mean() < 0.01
    assert out.depth[:, 16, 16] == pytest.approx(torch.full((3,), 2.5), abs=0.03)
    towards = cameras.positions / cameras.positions.norm(dim=1, keepdim=True)
    torch.testing.assert_close(out.normal[:, 16, 16], towards, atol=0.03, rtol=0)
    assert (out.rgb[:, 16, 16] - torch.tensor([0.993, 0.007, 0.007])).abs().max() < 0.02


def test_light_falls_by_the_normal_on_rays_and_points_alike(ball):
    with torch.no_grad():
        ball.light.coefficients[2] = 0.5  # from above
    top, bottom = ball.render(orbit_cameras(2, [90, -90]), 33, 33, background=0.0).rgb[:, 16, 16, 0]
    assert float(bottom) == pytest.approx(0.993 * 0.5, abs=0.01) and float(top) == 1.0
    color = ball.color(torch.tensor([[0.0, 0.0, 0.5], [0.5, 0.0, 0.0], [0.0, 0.0, -0.5]]))
    torch.testing.assert_close(color[:, 0], torch.tensor([1.0, 0.993, 0.497]), atol=0.01, rtol=0)


def test_chunks_and_size_do_not_change_what_is_rendered(ball):
    cameras = orbit_cameras(2)
    whole = ball.render(cameras, 10, 14)
    chunked = ball.render(cameras, 10, 14, rays_per_chunk=37)
    torch.testing.assert_close(whole.rgb, chunked.rgb)
    torch.testing.assert_close(whole.normal, chunked.normal)


def test_gradients_reach_every_parameter_through_every_output():
    field = RadianceField(SMALL)
    torch.nn.init.normal_(field.shape.grids[0], std=0.05, generator=torch.Generator().manual_seed(0))
    origins, directions = (r.reshape(-1, 3) for r in orbit_cameras(1).rays(8, 8))
    out = field.render_rays(origins, directions, 0.0, torch.Generator().manual_seed(0))
    for value in (out.rgb, out.alpha, out.depth, out.normal, out.weights):
        field.zero_grad()
        value.square().sum().backward(retain_graph=True)
        reached = [p.grad for p in field.parameters() if p.grad is not None]
        assert all(grid.grad.abs().sum() > 0 for grid in field.shape.grids)
        assert len(reached) == (len(list(field.parameters())) if value is out.rgb else len(field.shape.grids))
        assert all(grad.isfinite().all() for grad in reached)


def test_density_is_zero_where_rays_take_no_samples():
    field = RadianceField(SMALL)
    hull = torch.zeros_like(field.occupancy.hull)
    hull[16:] = True
    field.occupancy.set_hull(hull)
    points = torch.tensor([[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0], [1.5, 0.0, 0.0]])
    density = field.density(points)
    assert density[0] > 0 and density[1] == 0 and density[2] == 0
    assert field.raw_density(points)[1] > 0
    assert ((field.color(points) >= 0) & (field.color(points) <= 1)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_nerfacc_agrees_with_plain_torch():
    pytest.importorskip("nerfacc")
    plain = sphere_grid()
    fast = sphere_grid().cuda()
    origins, directions = (r.reshape(-1, 3) for r in orbit_cameras(2, 20).rays(32, 32))
    a, b = plain.march(origins, directions, 0.02), fast.march(origins.cuda(), directions.cuda(), 0.02)
    ones = (torch.full((len(s.t),), 3.0, device=s.t.device) for s in (a, b))
    sums = [s.sum(render_weights(s, density)).cpu() for s, density in zip((a, b), ones, strict=True)]
    assert (sums[0] - sums[1]).abs().mean() < 0.01
