"""Views from Images: which way masks count, what transparency says, whose cameras these are, and what the node says of it."""

from __future__ import annotations

import pytest
import torch

from gd_core.cameras import orbit_cameras
from gd_core.rigs import RIGS, chosen_cameras
from tests.nerf.conftest import draw

LOPSIDED = (((-0.45, 0.25, -0.35), 0.3, (0.9, 0.1, 0.1)), ((0.4, -0.1, 0.45), 0.22, (0.1, 0.2, 0.9)))


@pytest.fixture
def drawn():
    return draw(orbit_cameras(4), size=48, spheres=LOPSIDED)


@pytest.fixture
def said():
    """What the node showed last."""
    from server import PromptServer  # noqa: PLC0415

    PromptServer.instance.texts.clear()
    return lambda: "\n".join(text for _, text in PromptServer.instance.texts)


def softened(mask: torch.Tensor) -> torch.Tensor:
    return 0.05 + 0.9 * mask


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m: 1 - m,
        lambda m: softened(1 - m),
        lambda m: torch.cat((m[:2], 1 - m[2:])),
        lambda m: 1 - m * (torch.arange(48) > 24),  # half of the object is there
        lambda m: 1 - torch.cat((m[:, 20:], m[:, 20:21].expand(-1, 20, -1)), dim=1),  # it reaches the picture's lower edge
    ],
    ids=["all", "soft", "two of four", "half", "cut off below"],
)
def test_inverted_masks_are_refused_and_the_remedy_named(run, drawn, wrong):
    with pytest.raises(ValueError, match="Invert Mask"):
        run("ViewsFromImages", images=drawn.images, masks=wrong(drawn.masks))
    with pytest.raises(ValueError, match="Invert Mask"):
        run("FitNeRF", views=type(drawn)(drawn.images, wrong(drawn.masks), drawn.cameras), steps=1)


@pytest.mark.parametrize(
    "right",
    [
        lambda m: m,
        lambda m: softened(m),
        lambda m: torch.cat((m[:, 20:], m[:, 20:21].expand(-1, 20, -1)), dim=1),  # cut off below
        lambda m: torch.nn.functional.max_pool2d(m[:, None], 31, 1, 15)[:, 0],  # large: it touches the border here and there
        lambda m: m * (1 - torch.nn.functional.pad(torch.ones(4, 4), (22, 22, 22, 22))),  # a hole in the middle
    ],
    ids=["plain", "soft", "cut off below", "large", "hole"],
)
def test_right_masks_pass(run, drawn, right):
    out = run("ViewsFromImages", images=drawn.images, masks=right(drawn.masks))
    assert torch.equal(out.args[1], right(drawn.masks))


def test_masks_that_are_one_everywhere_say_nothing(run, drawn):
    with pytest.raises(ValueError, match="leave 'masks' unconnected"):
        run("ViewsFromImages", images=drawn.images, masks=torch.ones_like(drawn.masks))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_load_images_placeholder_for_no_transparency_is_no_mask(run, drawn, said, value):
    automatic = run("ViewsFromImages", images=drawn.images).args[1]
    out = run("ViewsFromImages", images=drawn.images, masks=torch.full((4, 64, 64), value))
    assert torch.equal(out.args[1], automatic) and "hold nothing" in said()


def test_transparency_is_the_mask_and_its_colours_are_laid_on_white(run, drawn, said):
    garbage = torch.where(drawn.masks[..., None] > 0, drawn.images, torch.tensor([0.0, 1.0, 0.0]))
    images = torch.cat((garbage, drawn.masks[..., None]), dim=-1)
    views, masks = run("ViewsFromImages", images=images).args
    assert torch.equal(masks, drawn.masks) and "transparency is the mask" in said()
    torch.testing.assert_close(views.images, drawn.images)
    with pytest.raises(ValueError, match="Invert Mask"):
        run("ViewsFromImages", images=torch.cat((garbage, 1 - drawn.masks[..., None]), dim=-1))
    chosen = drawn.masks * 0.9
    assert torch.equal(run("ViewsFromImages", images=images, masks=chosen).args[1], chosen)  # a mask that is given wins
    opaque = torch.cat((drawn.images, torch.ones(4, 48, 48, 1)), dim=-1)
    assert torch.equal(run("ViewsFromImages", images=opaque).args[1], run("ViewsFromImages", images=drawn.images).args[1])


def test_grey_images_and_strange_ones(run, drawn):
    assert run("ViewsFromImages", images=drawn.images[..., :1]).args[0].images.shape == (4, 48, 48, 3)
    with pytest.raises(ValueError, match="have 2 channels"):
        run("ViewsFromImages", images=drawn.images[..., :2])


@pytest.mark.parametrize("rig", ["Zero123++ 1.2", "Wonder3D", "Hunyuan3D-2mv"])
def test_a_rig_by_name_and_the_same_by_lists(run, said, rig):
    known = RIGS[rig]
    views = draw(chosen_cameras(len(known), 1.0, rig=rig), size=48, spheres=LOPSIDED)
    named = run("ViewsFromImages", images=views.images, masks=views.masks, rig=rig).args[0]
    lists = {"azimuths": ", ".join(map(str, known.azimuths)), "elevations": " ".join(map(str, known.elevations))}
    lists |= {"ortho_widths": "2"} if known.fov_y_deg is None else {"fovs": str(known.fov_y_deg)}
    listed = run("ViewsFromImages", images=views.images, masks=views.masks, distance=known.distance, **lists).args[0]
    for made in (named, listed):
        torch.testing.assert_close(made.cameras.rays(4, 4), views.cameras.rays(4, 4))
    assert "rig" not in said()
    run("ViewsFromImages", images=views.images, masks=views.masks, rig=rig, elevations="60")
    assert "the masks and the rig disagree" in said()


def test_a_sheet_is_cut_for_a_rig_by_name(run, said):
    views = draw(chosen_cameras(6, 1.0, rig="Zero123++ 1.2"), size=32, spheres=LOPSIDED)
    sheet = views.images.unflatten(0, (3, 2)).movedim(1, 2).reshape(1, 96, 64, 3)
    mask = views.masks.unflatten(0, (3, 2)).movedim(1, 2).reshape(1, 96, 64)
    made = run("ViewsFromImages", images=sheet, masks=mask, rig="Zero123++ 1.2").args[0]
    assert torch.equal(made.images, views.images) and torch.equal(made.masks, views.masks)
    assert "sheet of 2 x 3 views" in said()
    row = views.images.movedim(0, 1).reshape(1, 32, 192, 3)
    assert torch.equal(run("ViewsFromImages", images=row, rig="MV-Adapter").args[0].images, views.images)
    with pytest.raises(ValueError, match="batch 2 to 64"):
        run("ViewsFromImages", images=sheet[:, :90], rig="Zero123++ 1.2")


@pytest.mark.parametrize(("name", "text"), [("azimuths", "0, x"), ("elevations", "nan"), ("fovs", "-"), ("ortho_widths", "2m")])
def test_a_list_that_is_none_is_refused(run, drawn, name, text):
    with pytest.raises(ValueError, match=f"'{name}'"):
        run("ViewsFromImages", images=drawn.images, **{name: text})


def test_an_empty_mask_among_others_is_said(run, drawn, said):
    drawn.masks[2] = 0
    run("ViewsFromImages", images=drawn.images, masks=drawn.masks)
    assert "the mask of image 3 is empty" in said()


@pytest.mark.parametrize("stop_at", [1, 3])
def test_finding_the_object_can_be_cancelled_between_two_images(run, drawn, monkeypatch, stop_at):
    from comfy import model_management  # noqa: PLC0415
    from comfy.utils import ProgressBar  # noqa: PLC0415

    steps = []

    def update(self, value, total=None, preview=None):
        steps.append(value)
        model_management.interrupted = len(steps) == stop_at

    monkeypatch.setattr(ProgressBar, "update_absolute", update)
    with pytest.raises(model_management.InterruptProcessingException):
        run("ViewsFromImages", images=drawn.images)
    assert steps == list(range(stop_at))  # 0: before the first of them


def test_large_images_are_scaled_once_and_cancelled_while_the_fit_prepares(run, said, monkeypatch):
    from comfy import model_management  # noqa: PLC0415
    from comfy.utils import ProgressBar  # noqa: PLC0415

    views = draw(orbit_cameras(2), size=1536, spheres=LOPSIDED)
    steps = []

    def update(self, value, total=None, preview=None):
        steps.append(value)
        model_management.interrupted = len(steps) == 2

    monkeypatch.setattr(ProgressBar, "update_absolute", update)
    with pytest.raises(model_management.InterruptProcessingException):
        run("FitNeRF", views=views, steps=5)
    assert steps == [0, 0], "before the first step"
    assert "preparing" in said()
