"""The hybrid refinement on a real small model: what comes back, and what happens when something goes wrong."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gd_core.diffusion import encode_prompt
from gd_core.distillation import Ramp, RefineConfig, refine
from gd_core.distillation.guidance import Guidance, multiview_guidance
from gd_core.distillation.objective import HybridObjective, reference_rays
from gd_core.distillation.refinement import VISIBLE_PSNR, Refinement, make_guidance
from gd_core.nerf import match_with_views
from tests.distillation.conftest import sphere_views
from tests.random_models import TINY_RECIPE

CONFIG = replace(
    TINY_RECIPE.refine, steps=6, evaluate_every=2, milestones=((0.0, 0.25),), reference_rays=128, sds_weight=Ramp(0.1, 0.1)
)


class Cancelled(Exception):
    pass


def tensors(field):
    return {name: value.clone() for name, value in field.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def refined(field, views, tiny_mvdream):
    return refine(field, views, tiny_mvdream, CONFIG)


def objective(field, views, model, config=CONFIG):
    return HybridObjective(config, make_guidance(model, views, config), reference_rays(views, field.device), views)


def test_the_field_that_came_in_is_left_alone(field, views, tiny_mvdream):
    before, flags = tensors(field), [p.requires_grad for p in tiny_mvdream.vae.parameters()]
    refine(field, views, tiny_mvdream, replace(CONFIG, steps=1))
    assert same(before, tensors(field))
    assert [p.requires_grad for p in tiny_mvdream.vae.parameters()] == flags
    assert all(p.grad is None for p in tiny_mvdream.unet.parameters())
    assert all(p.grad is None for p in tiny_mvdream.vae.parameters())


@pytest.mark.parametrize(
    ("of_config", "of_views", "acts", "said"),
    [
        (None, "blue", "blue", "the views' negative prompt: blue"),
        ("green", "blue", "green", "the refinement's own negative prompt: green"),
        ("", "blue", "", "has no negative prompt"),
        (None, "  ", None, "MVDream's negative prompt|has no negative prompt"),
    ],
)
def test_the_views_negative_prompt_acts_and_it_is_said_whose(tiny_mvdream, caplog, of_config, of_views, acts, said):
    views = replace(sphere_views(), negative_prompt=of_views)
    with caplog.at_level("INFO"):
        guidance = make_guidance(tiny_mvdream, views, replace(CONFIG, negative_prompt=of_config))
    acts = multiview_guidance(tiny_mvdream, "x").negative_prompt if acts is None else acts
    assert guidance.negative_prompt == acts
    assert torch.equal(guidance.negative_context, encode_prompt(tiny_mvdream, acts, suffix=False).embeddings)
    assert re.search(said, caplog.text)


def test_same_seed_same_result_whatever_ran_before(field, views, tiny_mvdream, refined):
    torch.manual_seed(123)
    torch.rand(5)
    assert same(tensors(refined), tensors(refine(field, views, tiny_mvdream, CONFIG)))


def test_previews_and_progress(field, views, tiny_mvdream):
    seen = []
    refine(field, views, tiny_mvdream, CONFIG, progress=lambda *step: seen.append(step))
    assert seen[0] == (0, 6, None)  # while it prepares
    seen = [call for call in seen if call[0]]
    assert [(step, total) for step, total, _ in seen] == [(i, 6) for i in range(1, 7)]
    assert all(p.shape == (8, 8, 3) and 0 <= p.min() and p.max() <= 1 for _, _, p in seen)


def test_cancelled_and_resumed_ends_bit_identical(field, views, tiny_mvdream, tmp_path):
    """The kept state is compared, not only the best one, so that every step counts."""
    config = replace(CONFIG, steps=18, evaluate_every=6)
    refine(field, views, tiny_mvdream, config, resume=tmp_path / "unbroken")

    def cancel_at(last):
        def progress(step, total, preview):
            if step == last:
                raise Cancelled

        return progress

    for last in (3, 17):  # before the first evaluation; between an occupancy update and the end
        with pytest.raises(Cancelled):
            refine(field, views, tiny_mvdream, config, progress=cancel_at(last), resume=tmp_path / "broken")
    refine(field, views, tiny_mvdream, config, resume=tmp_path / "broken")
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "unbroken").read_bytes()
    assert not list(tmp_path.glob("*.tmp"))


def test_cancelled_within_a_step_goes_on_from_before_it(field, views, tiny_mvdream, tmp_path):
    """As ComfyUI cancels: between two layers of the model, long before the step is done."""
    config = replace(CONFIG, steps=5, evaluate_every=5)
    refine(field, views, tiny_mvdream, config, resume=tmp_path / "unbroken")
    done = []

    def cancel(*_):
        if done and done[-1] == 2:
            raise Cancelled

    hook = tiny_mvdream.unet.mid_block.register_forward_pre_hook(cancel)
    try:
        with pytest.raises(Cancelled):
            refine(field, views, tiny_mvdream, config, lambda step, *_: done.append(step), resume=tmp_path / "broken")
    finally:
        hook.remove()
    steps = []
    refine(field, views, tiny_mvdream, config, lambda step, *_: steps.append(step), resume=tmp_path / "broken")
    assert done[-1] == 2 and min(step for step in steps if step) == 3
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "unbroken").read_bytes()


def test_checkpoint_of_another_run_is_refused(field, views, tiny_mvdream, tmp_path):
    refine(field, views, tiny_mvdream, replace(CONFIG, steps=1), resume=tmp_path / "state")
    with pytest.raises(ValueError, match="another field, views, prompt, model or settings"):
        refine(field, views, tiny_mvdream, replace(CONFIG, steps=1, seed=1), resume=tmp_path / "state")
    other = copy.deepcopy(tiny_mvdream.unet)
    torch.nn.init.normal_(other.conv_out.weight)
    with pytest.raises(ValueError, match="another field, views, prompt, model or settings"):
        refine(field, views, replace(tiny_mvdream, unet=other), replace(CONFIG, steps=1), resume=tmp_path / "state")
    (tmp_path / "state").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="state is a plain text"):
        refine(field, views, tiny_mvdream, CONFIG, resume=tmp_path / "state")


def test_the_guard_holds_the_reference_psnr(field, views, tiny_mvdream):
    """An SDS weight that would wreck the field: the guard takes it back, and what returns is within the margin."""
    config = replace(CONFIG, sds_weight=Ramp(1e4, 1e4), grid_lr=0.3, mlp_lr=0.3, max_psnr_drop=0.5)
    result = refine(field, views, tiny_mvdream, config)
    report = result.provenance["refine"]
    assert any("reference PSNR fell" in event for event in report["events"])
    before, after = match_with_views(field, views).psnr, match_with_views(result, views).psnr
    assert after >= min(before, VISIBLE_PSNR) - 0.5


def test_a_loss_that_is_not_a_number_stops_and_restores(field, views, tiny_mvdream):
    bias = tiny_mvdream.unet.conv_out.bias
    before = bias.detach().clone()
    config = replace(CONFIG, sds_weight=Ramp(0.0, 0.1, first=0.5, last=0.5))
    bias.data.fill_(float("nan"))
    try:
        result = refine(field, views, tiny_mvdream, config)
    finally:
        bias.data.copy_(before)
    (event,) = result.provenance["refine"]["events"]
    assert "step 4" in event and "the sds loss is nan" in event
    assert all(torch.isfinite(value).all() for value in result.state_dict().values())
    assert same(tensors(result), tensors(field))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_goes_down_one_preset_and_on(field, views, tiny_mvdream, monkeypatch, error):
    terms, failed = HybridObjective.terms, []

    def too_large_once(self, *args):
        if self.rays_per_chunk > 10_000 and len(failed) < 2:
            failed.append(self.rays_per_chunk)
            raise error
        return terms(self, *args)

    monkeypatch.setattr(HybridObjective, "terms", too_large_once)
    result = refine(field, views, tiny_mvdream, CONFIG)
    report = result.provenance["refine"]
    assert failed == [65536, 32768] and report["preset"] == "8GB"
    assert report["events"] == [
        "out of memory at step 1: went down from preset 24GB to 12GB",
        "out of memory at step 1: went down from preset 12GB to 8GB",
    ]
    assert report["history"][-1]["step"] == CONFIG.steps


@pytest.mark.parametrize("evaluation", [0, 1, 3], ids=["of the field that came in", "in the middle", "at the end"])
def test_out_of_memory_in_an_evaluation_goes_down_one_preset_and_on(field, views, tiny_mvdream, monkeypatch, evaluation):
    score, calls = HybridObjective.held_back_score, []

    def too_large_once(self, *args):
        calls.append(self.rays_per_chunk)
        if len(calls) == evaluation + 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(self, *args)

    monkeypatch.setattr(HybridObjective, "held_back_score", too_large_once)
    report = refine(field, views, tiny_mvdream, CONFIG).provenance["refine"]
    assert report["preset"] == "12GB" and calls[evaluation : evaluation + 2] == [65536, 32768]
    assert [entry["step"] for entry in report["history"]] == [0, 2, 4, 6] and len(report["events"]) == 1


def test_held_back_scores_encode_once_and_run_one_half(field, views, tiny_mvdream, monkeypatch):
    encode, encoded, batches = Guidance.encode, [], []
    monkeypatch.setattr(Guidance, "encode", lambda self, *args: encoded.append(len(args[0])) or encode(self, *args))
    hook = tiny_mvdream.unet.register_forward_pre_hook(lambda unet, args: batches.append(len(args[0])))
    try:
        score = objective(field, views, tiny_mvdream).held_back_score(field)
    finally:
        hook.remove()
    assert encoded == [4] and batches == [4, 4, 4] and score < 0


def test_out_of_memory_in_the_smallest_preset(field, views, tiny_mvdream, monkeypatch):
    def too_large(self, *args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(HybridObjective, "terms", too_large)
    with pytest.raises(MemoryError, match="8GB preset"):
        refine(field, views, tiny_mvdream, replace(CONFIG, preset="8GB"))


def test_other_runtime_errors_are_not_taken_for_it(field, views, tiny_mvdream, monkeypatch):
    def broken(self, *args):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(HybridObjective, "terms", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        refine(field, views, tiny_mvdream, CONFIG)


def test_field_of_another_scene(field, tiny_mvdream):
    elsewhere = sphere_views(radius=0.4, center=(0.5, 0.5, 0.3))
    with pytest.raises(ValueError, match="fitted to these views"):
        refine(field, elsewhere, tiny_mvdream, CONFIG)


def test_views_without_prompt(field, views, tiny_mvdream):
    with pytest.raises(ValueError, match="no prompt"):
        refine(field, replace(views, prompt=" "), tiny_mvdream, CONFIG)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "at least 1 step"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"form": "vsd"}, "'vsd'"),
        ({"preset": "80GB"}, "'80GB'"),
        ({"milestones": ((0.5, 1.0),)}, "milestones"),
        ({"max_psnr_drop": -1.0}, "max_psnr_drop"),
        ({"elevation_deg": (30.0, 0.0)}, "elevation_deg"),
        ({"mlp_lr": -1.0}, "mlp_lr"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        RefineConfig(**settings)


@pytest.fixture(scope="module")
def terms(field, views, tiny_mvdream):
    return objective(field, views, tiny_mvdream)


def drawn(terms, **settings):
    """Elevation, field of view and distance of a thousand groups of cameras, each `[1000]`."""
    made = replace(terms, config=replace(terms.config, **settings))
    generator = torch.Generator().manual_seed(0)
    groups = [made.random_cameras(generator) for _ in range(1000)]
    positions = torch.stack([g.positions[0] for g in groups]).double()
    distance = positions.norm(dim=1)
    elevation = torch.rad2deg(torch.asin(positions[:, 2] / distance))
    return elevation, torch.stack([g.fov_y_deg[0] for g in groups]).double(), distance


def test_random_cameras_follow_mvdream_threestudio(terms):
    """Field of view 15 to 60 degrees, and the object as large in the picture at any."""
    _, fov, distance = drawn(terms, fov_y_deg=(15.0, 60.0), relative_distance=(0.8, 1.0))
    assert 15 <= fov.min() < 16 and 59 < fov.max() <= 60
    half_width = distance * torch.tan(torch.deg2rad(fov) / 2)
    assert 0.8 <= half_width.min() + 1e-5 and half_width.min() < 0.81 and 0.99 < half_width.max() <= 1.0 + 1e-5


@pytest.mark.parametrize(("share", "above"), [(1.0, 0.35), (0.0, 0.0), (0.5, 0.175)])
def test_elevations_are_uniform_on_the_sphere_or_half_and_half(terms, share, above):
    """The draw on the sphere reaches 19.5 degrees of 30: the yaml's two laws differ in what lies above."""
    elevation, _, _ = drawn(terms, elevation_deg=(0.0, 30.0), uniform_elevation=share)
    assert -1e-4 <= elevation.min() < 1
    assert float((elevation > 19.48).double().mean()) == pytest.approx(above, abs=0.05)


@given(st.integers(0, 2**31))
def test_random_cameras_are_orthogonal_and_shared_but_for_azimuth(terms, views, seed):
    cameras = terms.random_cameras(torch.Generator().manual_seed(seed))
    positions = cameras.positions / cameras.positions.norm(dim=1, keepdim=True)
    assert torch.allclose(cameras.positions.norm(dim=1), views.cameras.positions.norm(dim=1), atol=1e-4)
    assert (positions[:, 2] - positions[0, 2]).abs().max() < 1e-5
    assert -1e-5 <= positions[0, 2] <= 0.5 + 1e-5  # sine of 0 to 30 degrees
    flat = torch.nn.functional.normalize(positions[:, :2], dim=1)
    assert torch.allclose((flat * flat.roll(1, 0)).sum(1), torch.zeros(4), atol=1e-5)


def test_milestones_set_the_render_size(field, views, tiny_mvdream):
    terms = objective(field, views, tiny_mvdream, replace(CONFIG, milestones=((0.0, 0.25), (0.5, 1.0))))
    assert [terms.image_size(share) for share in (0.0, 0.49, 0.5, 1.0)] == [8, 8, 32, 32]
    terms.max_image_size = 16
    assert terms.image_size(1.0) == 16


def test_every_term_reaches_the_field(field, views, tiny_mvdream):
    terms, _ = objective(field, views, tiny_mvdream).terms(field, 0.5, 0.1, torch.Generator().manual_seed(0))
    assert set(terms) == {"reference", "mask", "sds", "bending", "opacity", "orientation"}
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, list(field.parameters()), allow_unused=True, retain_graph=True)
        assert any(g is not None and g.abs().max() > 0 for g in gradients), name


def test_without_reference_weight_only_the_model_speaks(field, views, tiny_mvdream):
    config = replace(CONFIG, reference_weight=0.0, mask_weight=0.0)
    terms, _ = objective(field, views, tiny_mvdream, config).terms(field, 0.5, 0.1, torch.Generator().manual_seed(0))
    assert set(terms) == {"sds", "bending", "opacity", "orientation"}


def test_without_references_the_last_state_is_returned_and_no_guard_acts(field, views, tiny_mvdream):
    """Also through a first step in which the SDS ramp is still at 0, so that nothing pulls at all."""
    config = replace(CONFIG, steps=3, reference_weight=0.0, mask_weight=0.0, sds_weight=Ramp(0.0, 1e4), mlp_lr=0.3)
    report = refine(field, views, tiny_mvdream, config).provenance["refine"]
    assert report["best_step"] == 3 and report["events"] == []


def test_held_back_views_are_never_reference_views(field, views, tiny_mvdream):
    azimuth = objective(field, views, tiny_mvdream).held_back_azimuth()
    assert azimuth == pytest.approx(135)  # the first view is at 90, the others a quarter turn on


def test_renders_in_several_chunks_take_the_same_steps(field, views, tiny_mvdream, monkeypatch):
    """Chunks are rendered a second time in the backward pass, which must go the same way."""
    config = replace(CONFIG, steps=2)
    whole = refine(field, views, tiny_mvdream, config)
    plain = Refinement._use_preset

    def in_chunks(self, name):
        plain(self, name)
        self.objective.rays_per_chunk = 100

    monkeypatch.setattr(Refinement, "_use_preset", in_chunks)
    chunked = refine(field, views, tiny_mvdream, config)
    assert chunked.provenance["refine"]["events"] == []
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(chunked.state_dict()[name].float(), value.float(), atol=0.02, rtol=0, msg=name)
