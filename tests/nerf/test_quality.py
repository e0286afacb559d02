"""Quality is counted in pixels of the views, gives way where memory is short, and a fine shape is as smooth and as savable."""

import logging
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gd_core.cameras import orbit_cameras
from gd_core.nerf import QUALITIES, FieldConfig, FitConfig, RadianceField, fit_views, load_field
from gd_core.nerf import quality as quality_module
from gd_core.nerf.fit import SparseViewFit
from gd_core.nerf.labels import LabelGrid
from gd_core.nerf.quality import memory_needed, pixel_size, resolution_for, resolve
from gd_core.nerf.shell import ShellGrid, neighbour_tables
from gd_core.nerf.threads import WINDOW, Watch, fitting_threads, threads_that_pay
from gd_core.views import ViewSet
from tests.live_bytes import LiveBytes
from tests.nerf.conftest import QUICK, draw


def blank(size: int) -> ViewSet:
    return ViewSet(torch.ones(4, size, size, 3), torch.ones(4, size, size), orbit_cameras(4))


@pytest.mark.parametrize(
    "quality, size, cells", [("standard", 256, 128), ("fine", 256, 240), ("standard", 128, 64), ("fine", 128, 128)]
)
def test_a_cell_is_as_many_pixels_as_the_quality_says(quality, size, cells):
    config = resolve(FitConfig(quality=quality), blank(size), None)
    assert max(config.field.shape.resolutions[-1], config.field.shape.detail) == cells
    assert 2 / cells <= QUALITIES[quality] * pixel_size(blank(size))
    assert config.softness[1] == pytest.approx(0.01 * 64 / cells) and config.field.step == pytest.approx(0.02 * 64 / cells)


def test_a_draft_is_coarser_and_small_views_are_fitted_as_before():
    assert resolve(FitConfig(quality="draft"), blank(128), None).field.shape.resolutions == (8, 16, 32)
    for size in (32, 64, 100):
        assert resolve(FitConfig(), blank(size), None) == FitConfig()
    with pytest.raises(ValueError, match="unknown quality 'best'.*draft, standard, fine"):
        FitConfig(quality="best")


@pytest.mark.parametrize(
    "asked, free, fitted", [("fine", "standard", "standard"), ("fine", "draft", "draft"), ("standard", "draft", "draft")]
)
def test_where_memory_is_short_the_next_lower_quality_is_fitted_and_said(asked, free, fitted, caplog):
    views = blank(256)
    enough = memory_needed(resolution_for(free, views, 1.0))
    with caplog.at_level(logging.WARNING):
        assert resolve(FitConfig(quality=asked), views, enough).quality == fitted
    needed = memory_needed(resolution_for(asked, views, 1.0)) / 1e9
    assert f"'{asked}' needs {needed:.1f} GB" in caplog.text and f"'{fitted}' is fitted" in caplog.text
    caplog.clear()
    assert resolve(FitConfig(quality=asked), views, 10**12).quality == asked and not caplog.text


def test_a_fit_takes_the_lower_quality_too(views, quick, monkeypatch):
    monkeypatch.setattr("gd_core.nerf.fit.free_memory", lambda device: memory_needed(64))
    fit = SparseViewFit(draw(orbit_cameras(4), 128), replace(quick, quality="fine"), torch.device("cpu"))
    assert fit.config.quality == "standard"


def test_a_fit_holds_as_much_as_is_counted():
    views = draw(orbit_cameras(4), 128, spheres=(((0.0, 0.0, 0.0), 0.8, (0.5, 0.5, 0.5)),))
    config = FitConfig(steps=8, prune_after=4, prune_every=4, quality="fine")
    with LiveBytes() as live:
        fit = SparseViewFit(views, config, torch.device("cpu"))
        carving = live.peak
        while not fit.done:
            fit.step(0.0)
        fit.finish()
    shape = fit.field.shape
    assert 128**2 < len(shape.shell.values) < quality_module.SHELL_VALUES * 128**2
    assert carving < quality_module.CARVING
    assert 0.75 * memory_needed(128, len(shape.shell.values)) < live.peak < memory_needed(128, len(shape.shell.values))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.integers(6, 12))
def test_a_shell_is_zero_beyond_itself_and_continuous(seed, resolution):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(resolution, resolution, resolution, generator=generator) < 0.9
    shell = ShellGrid(resolution, 1.0, 1.0, mask.flatten().nonzero()[:, 0])
    torch.nn.init.normal_(shell.values, generator=generator)
    values, around = shell.tables()
    points = 2 * torch.rand(500, 3, generator=generator) - 1
    steps = 1e-4 * torch.randn(500, 3, generator=generator)
    here = shell.sample(values, *shell.place(points))
    there = shell.sample(values, *shell.place((points + steps).clamp(-1, 1)))
    assert (here - there).abs().max() < 0.02
    cell = ((points + 1) * resolution / 2).long().clamp(max=resolution - 1)
    assert (here[~mask[cell.unbind(1)]] == 0).all()
    slopes = shell.slopes(around)
    assert slopes.shape == (len(values), 3) and (slopes[-1] == 0).all()


def test_the_shells_gradients_are_those_of_finite_differences():
    mask = torch.rand(5, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.95
    shell = ShellGrid(5, 1.0, 0.5, mask.flatten().nonzero()[:, 0]).double()
    points = 2 * torch.rand(30, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1

    def loss(start):
        values, around = neighbour_tables(start, shell.neighbours)
        place = shell.place(points)
        sampled = shell.sample(values, *place).square().sum() + shell.sample(shell.slopes(around), *place).square().sum()
        return sampled + shell.bending(values, around)

    start = torch.randn(len(shell.values), generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert len(start) > 3 and torch.autograd.gradcheck(loss, (start,))


def test_detail_changes_nothing_at_first_and_comes_back_from_a_file(tmp_path):
    coarse = FieldConfig(QUICK.field.encoding, 16, 1.0, 32, 0.06, QUICK.field.shape)
    field = RadianceField(coarse, seed=3)
    axis = torch.linspace(-1, 1, 32)
    ball = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0) < 0.7
    field.occupancy.set_hull(ball)
    field.shape.start_from(ball[None])
    points = 1.6 * torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) - 0.8
    before = field.density(points)
    field.add_detail(replace(coarse, occupancy_resolution=64, step=0.03, shape=replace(coarse.shape, detail=64)))
    assert torch.equal(field.density(points), before) and field.config.step == 0.03
    assert 0 < len(field.shape.shell.values) < 0.5 * 64**3
    torch.nn.init.normal_(field.shape.shell.values, 0, 0.1, generator=torch.Generator().manual_seed(0))
    changed, normals = field.density(points), field.shape.normals(points)
    assert not torch.equal(changed, before)
    with field.kept():
        assert torch.equal(field.density(points), changed) and torch.equal(field.shape.normals(points), normals)
    field.label_grid = LabelGrid(("cube", "sphere"))
    field.save(tmp_path / "field.safetensors")
    for loaded in (load_field(tmp_path / "field.safetensors", "cpu"), field.copy_to(torch.device("cpu"))):
        assert torch.equal(loaded.density(points), changed) and loaded.config == field.config
        assert loaded.label_names == ("cube", "sphere")


def test_a_detailed_fit_goes_on_bit_for_bit_and_shows_its_views_better(quick, tmp_path):
    views = draw(orbit_cameras(4), 64)
    config = replace(quick, steps=30, quality="fine", rays_per_step=64)
    monkey = {"PLAIN": 32}  # what 64 cells are to full-size views
    with pytest.MonkeyPatch.context() as patch:
        for name, value in monkey.items():
            patch.setattr(quality_module, name, value)
        whole = fit_views(views, config, device="cpu")
        assert whole.config.shape.detail == 64 and whole.shape.shell is not None

        for stop in (10, 25, 30):

            def progress(step, total, preview, stop=stop):
                if step == stop:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                fit_views(views, config, progress, resume=tmp_path / "fit", device="cpu")
        resumed = fit_views(views, config, resume=tmp_path / "fit", device="cpu")
    a, b = whole.state_dict(), resumed.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_threads_are_chosen_once_and_put_back():
    before = torch.get_num_threads()
    assert threads_that_pay(1) == 1 and threads_that_pay(2) == threads_that_pay(2) and threads_that_pay(2) in (1, 2)
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="stop"), fitting_threads(torch.device("cpu")):
            assert torch.get_num_threads() == threads_that_pay(2)
            raise RuntimeError("stop")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("slow", "worked", "left"), [(0.2, 0.15, 1), (0.2, 0.39, 2), (0.015, 0.012, 2)])
def test_one_thread_goes_on_alone_where_others_have_come(slow, worked, left):
    now, processor, before = [0.0], [0.0], torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        watch = Watch(lambda: now[0], lambda: processor[0])
        for seconds, work in ((0.01, 0.02), (0.012, 0.02), (slow, worked)):  # of a step, window by window
            for _ in range(WINDOW):
                with watch:
                    now[0] += seconds
                    processor[0] += work
                now[0] += 5.0  # a checkpoint is written
        assert torch.get_num_threads() == left
    finally:
        torch.set_num_threads(before)
