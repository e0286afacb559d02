"""Fits of analytic views: what they reach, that they stop, go on and repeat, and what bad input is told."""

from dataclasses import asdict, replace

import pytest
import torch

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.files import write_tensors
from gd_core.nerf import EncodingConfig, fit_views, load_field
from gd_core.nerf.evidence import foreground_colors
from gd_core.nerf.field import FORMAT
from gd_core.nerf.fit import STAGED
from gd_core.views import ViewSet
from tests.nerf.conftest import QUICK, SPHERES, draw
from tools.tiny.renderer import LIGHT, render
from tools.tiny.scenes import Solid


def psnr(field, views: ViewSet) -> float:
    out = field.render(views.cameras, views.height, views.width)
    return float(-10 * (out.rgb - views.images).square().mean().log10())


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def fitted(views):
    return fit_views(views, QUICK)


def test_a_fit_shows_held_out_views(views, fitted):
    assert psnr(fitted, views) > 20
    held_out = draw(orbit_cameras(6, [0, 25] * 3, azimuth_start_deg=120))
    assert psnr(fitted, held_out) > 17
    assert fitted.provenance["fit"]["steps"] == 80


def test_the_same_seed_gives_the_same_field(views, fitted, quick):
    torch.rand(7)
    assert same(fitted, fit_views(views, quick))


def test_the_light_of_shaded_views_is_found_and_the_albedo_is_rid_of_it():
    cameras = orbit_cameras(4)
    image, coverage = render([Solid("sphere", "cyan", "", 0.85, (0.0, 0.0, 0.0), 0.0)], cameras, 48)
    field = fit_views(ViewSet(image, coverage.sum(1), cameras), replace(QUICK, steps=200))
    towards = torch.nn.functional.normalize(field.light.coefficients[:3].detach(), dim=0)
    assert float(towards @ LIGHT) > 0.95
    surface = 0.7 * torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    surface = surface[surface[:, 2] > -0.4]
    with torch.no_grad():
        albedo, color = field.albedo(surface), field.color(surface)
    assert (albedo.std(0) / albedo.mean(0)).max() < 0.5 * (color.std(0) / color.mean(0)).min()


def test_a_lamp_at_the_camera_is_found_and_is_not_taken_for_light_in_the_world():
    cameras = orbit_cameras(4)
    views = draw(cameras, 48, spheres=(((0.0, 0.0, 0.0), 0.8, (0.6, 0.6, 0.6)),))
    origins, directions = cameras.rays(48, 48)
    along = -(origins * directions).sum(-1)
    root = (along**2 - origins.square().sum(-1) + 0.64).clamp(min=0).sqrt()
    points = origins + (along - root)[..., None] * directions
    facing = -(torch.nn.functional.normalize(points, dim=-1) * directions).sum(-1, keepdim=True)
    shaded = torch.where(views.masks[..., None] > 0, views.images * (0.4 + 0.6 * facing) + 0.3 * facing**20, views.images)
    field = fit_views(ViewSet(shaded.clamp(0, 1), views.masks, cameras), replace(QUICK, steps=200), device="cpu")
    assert field.light.lamp[0] > 0.2 and field.light.lamp[1] > 0.05
    assert field.light.coefficients.abs().max() < field.light.lamp[0]


def test_without_a_light_lr_shade_is_painted(views, quick):
    light = fit_views(views, replace(quick, light_lr=0.0)).light
    assert (light.coefficients == 0).all() and (light.lamp == 0).all()


def test_a_cancelled_fit_goes_on_bit_for_bit(views, fitted, quick, tmp_path):
    path = tmp_path / "fit.checkpoint"
    for stop in (7, 31):  # before and after the milestone and the first pruning

        def progress(step, total, preview, stop=stop):
            assert total == 80
            if step == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit_views(views, quick, progress, resume=path)
    seen = []
    resumed = fit_views(views, quick, lambda step, total, preview: seen.append(step), resume=path)
    assert sorted({step for step in seen if step}) == list(range(32, 81))
    assert same(fitted, resumed)
    assert same(fitted, fit_views(views, quick, resume=path))  # finished: nothing is left to do
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_of_another_fit_is_refused(views, quick, tmp_path):
    path = tmp_path / "fit.checkpoint"
    fit_views(views, replace(quick, steps=2), resume=path)
    with pytest.raises(ValueError, match="other views or settings"):
        fit_views(views, replace(quick, steps=3), resume=path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cut short"):
        fit_views(views, replace(quick, steps=2), resume=path)


def test_a_field_file_brings_everything_back(views, fitted, tmp_path):
    path = tmp_path / "field.safetensors"
    fitted.save(path)
    loaded = load_field(path)
    assert same(fitted, loaded) and loaded.config == fitted.config and loaded.provenance["fit"]["steps"] == 80
    assert psnr(loaded, views) == psnr(fitted, views)
    unlit = {key: tensor for key, tensor in fitted.state_dict().items() if not key.startswith("light")}
    header = {"format": FORMAT, "version": 2, "config": asdict(fitted.config), "provenance": {}}
    write_tensors(path, unlit, header)
    assert (load_field(path).light.coefficients == 0).all()
    lampless = {key: tensor for key, tensor in fitted.state_dict().items() if key != "light.lamp"}
    write_tensors(path, lampless, header | {"version": 3})
    loaded = load_field(path)
    assert (loaded.light.lamp == 0).all() and torch.equal(loaded.light.coefficients, fitted.light.coefficients)
    write_tensors(path, unlit, header | {"version": 1})
    with pytest.raises(ValueError, match="fit it again"):
        load_field(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cut short"):
        load_field(path)
    views.save(path)
    with pytest.raises(ValueError, match="does not hold a NeRF field"):
        load_field(path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        fitted.save(tmp_path / "missing" / "field.safetensors")
    assert list(tmp_path.iterdir()) == [path]


def test_a_subject_in_half_of_the_views_is_neither_erased_nor_blows_up(views, quick):
    alone = draw(views.cameras, spheres=SPHERES[:1])
    mixed = ViewSet(
        torch.cat((views.images[:2], alone.images[2:])), torch.cat((views.masks[:2], alone.masks[2:])), views.cameras
    )
    field = fit_views(mixed, replace(quick, steps=120))
    out = field.render(views.cameras, 32, 32)
    second = draw(views.cameras, spheres=SPHERES[1:]).masks > 0.5
    assert out.alpha[0][second[0]].mean() > 0.8 and out.alpha[1][second[1]].mean() > 0.8
    assert (out.alpha[2:][alone.masks[2:] > 0.5]).mean() > 0.8
    assert (out.alpha > 0.5).float().mean() < 1.5 * (views.masks > 0.5).float().mean()


@pytest.mark.parametrize("count", [1, 3, 7])
def test_any_number_of_views_and_other_cameras(quick, count):
    cameras = orbit_cameras(count, [(-20, 10, 45)[i % 3] for i in range(count)], 33, distance=2.2, fov_y_deg=60)
    views = draw(cameras, size=24)
    assert psnr(fit_views(views, quick), views) > 14


def test_a_background_that_is_not_white_is_seen_through(quick):
    grey = draw(orbit_cameras(4), background=0.4)
    field = fit_views(grey, quick)
    out = field.render(grey.cameras, 32, 32, background=0.4)
    assert -10 * (out.rgb - grey.images).square().mean().log10() > 20


def test_a_view_with_an_empty_mask_is_left_out(views, quick, caplog):
    masks = views.masks.clone()
    masks[1] = 0
    field = fit_views(ViewSet(views.images, masks, views.cameras), quick)
    assert "views 1 have an empty mask" in caplog.text
    assert psnr(field, views) > 14


@pytest.mark.parametrize(("count", "told"), [(1, True), (2, True), (3, False), (4, False)])
def test_views_along_one_line_are_told(quick, caplog, count, told):
    """One view, or the front and the back: two orthogonal ones are enough."""
    fit_views(draw(orbit_cameras(count, 0), size=16), replace(quick, steps=1))
    assert ("give a view from the side" in caplog.text) == told


def test_no_foreground_at_all_is_an_error(views, quick):
    white = ViewSet(torch.ones_like(views.images), torch.zeros_like(views.masks), views.cameras)
    with pytest.raises(ValueError, match="masks are empty"):
        fit_views(white, quick)


def test_all_white_views_give_a_white_object(quick):
    cameras = orbit_cameras(4)
    masks = torch.zeros(4, 16, 16)
    masks[:, 3:13, 3:13] = 1
    out = fit_views(ViewSet(torch.ones(4, 16, 16, 3), masks, cameras), quick).render(cameras, 16, 16, background=0.0)
    assert out.rgb.isfinite().all() and out.alpha[masks > 0].mean() > 0.5


def test_cameras_that_look_elsewhere_are_an_error(views, quick):
    c2w = views.cameras.c2w.clone()
    c2w[:, :3, 3] += 50 * c2w[:, :3, 0]
    with pytest.raises(ValueError, match="box of 2 world units"):
        fit_views(ViewSet(views.images, views.masks, Cameras(c2w, views.cameras.fov_y_deg)), quick)


def test_views_that_are_no_views_are_refused(views):
    with pytest.raises(ValueError, match="do not fit images"):
        ViewSet(views.images, views.masks[:, :16], views.cameras)
    holed = views.images.clone()
    holed[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        ViewSet(holed, views.masks, views.cameras)


def test_a_budget_in_seconds_ends(views, quick):
    steps = []
    fit_views(views, replace(quick, seconds=0.5), lambda step, total, preview: steps.append((step, total)))
    done = {step for step in steps if step[0]}
    assert max(done)[0] == max(done)[1] == len(done)


def test_held_back_rays_stop_a_fit_that_has_converged(views, quick):
    stopped = fit_views(views, replace(quick, steps=500, check_every=2, patience=1))
    assert 500 * STAGED <= stopped.provenance["fit"]["steps"] < 500, "once every stage of the fit has begun"
    assert stopped.provenance["fit"]["held_back_error"] > 0


def test_a_hash_field_fits_too_and_its_file_knows_it(views, quick, tmp_path):
    encoding = EncodingConfig("hash", levels=2, log2_table=12, base_resolution=8, level_scale=2.0)
    field = fit_views(views, replace(quick, field=replace(quick.field, encoding=encoding)))
    assert psnr(field, views) > 17
    field.save(tmp_path / "hash.safetensors")
    assert load_field(tmp_path / "hash.safetensors").config.encoding == encoding


def test_settings_that_make_no_sense_are_refused(quick):
    with pytest.raises(ValueError, match="at least one step"):
        replace(quick, steps=0)
    with pytest.raises(ValueError, match="positive number of seconds"):
        replace(quick, seconds=-1.0)
    with pytest.raises(ValueError, match="softness must be above 0"):
        replace(quick, softness=(0.1, 0.0))


def test_an_outline_that_the_background_has_bled_into_takes_the_colour_from_inside():
    mask = torch.zeros(1, 9, 9)
    mask[:, 2:7, 2:7] = 1
    image = torch.ones(1, 9, 9, 3)
    image[:, 3:6, 3:6] = torch.tensor([0.8, 0.0, 0.0])
    image[:, 2, 2:7] = torch.tensor([0.9, 0.5, 0.5])  # half white, though the mask says it is all subject
    color = foreground_colors(image, mask, torch.ones(1, 1, 1, 3))
    torch.testing.assert_close(color[0, 2, 4], torch.tensor([0.8, 0.0, 0.0]))
    assert (color[mask < 1] == 0).all()
