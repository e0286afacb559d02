"""Others' protocols, as their authors' code has them: `--protocol NAME`. Read from the repositories named, at those commits.

A protocol says what is looked at (the views, the field or the mesh), from where and before what, which network judges, what it
is asked, and how the answers become one number. Its numbers carry its name: they compare with nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..cameras import Cameras, look_at, orbit_cameras
from ..mesh.load import load_mesh
from ..mesh.raster import render_unlit
from ..metrics.clip import ClipEncoder, clip_r_precision
from ..nerf import RadianceField
from ..views import ViewSet

VIEWS, FIELD, MESH = "the sampled views", "renders of the field", "renders of the mesh"


@dataclass(frozen=True)
class Protocol:
    """How one number of the literature is taken.

    Attributes:
        source: where it was read.
        seen: `VIEWS`, `FIELD` or `MESH`.
        pictures: how many an item must have; at least, where `cameras` is None.
        cameras: from where; None: the maker's own.
        size: of a picture, pixels; None: the maker's own.
        background: RGB 0..1.
        clip: what CLIP model the original has, and its patches' size in pixels; None: it has none.
        needs: options of `evaluate` without which it cannot be taken, and what the original has there.
        also: groups of options that add a number of it each, of which at least one must be given.
        apart: what is not as in the original, or is not known of it.
    """

    source: str
    seen: str
    pictures: int
    cameras: Callable[[], Cameras] | None = None
    size: int | None = None
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    clip: tuple[str, int] | None = None
    needs: tuple[tuple[str, str], ...] = ()
    also: tuple[tuple[tuple[str, ...], str], ...] = ()
    apart: str = ""


def icosahedron_cameras(distance: float, fov_y_deg: float) -> Cameras:
    """Twelve cameras on an icosahedron's corners, which look at the origin."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [turned for s in (1, -1) for g in (golden, -golden) for turned in ((s, g, 0), (0, s, g), (g, 0, s))]
    positions = F.normalize(torch.tensor(corners, dtype=torch.float32), dim=1) * distance
    return Cameras(look_at(positions), torch.full((12,), fov_y_deg))


CAPTIONER = ("captioner", "BLIP-2 with FlanT5-XXL in the original, nucleus sampling, one caption a picture")
LANGUAGE_MODEL = ("language-model", "GPT-4 at temperature 0 in the original")
PROTOCOLS: dict[str, Protocol] = {
    "t3bench": Protocol(
        "THU-LYJ-Lab/T3Bench @6367462, run_caption.py, render/meshrender_cap.py, run_eval_alignment.py",
        MESH,
        12,
        cameras=lambda: icosahedron_cameras(2.2 * 2.2, 60.0),
        size=512,
        background=(0.0, 0.0, 0.0),
        needs=(CAPTIONER, LANGUAGE_MODEL),
        apart="The two questions to the language model say what the original's say, in other words. This is T3Bench's "
        "alignment; its quality, by ImageReward, is not taken.",
    ),
    "dreamfields": Protocol(
        "google-research/google-research, dreamfields/dreamfields/lib.py (run_eval), config/config_base.py",
        FIELD,
        1,
        cameras=lambda: orbit_cameras(1, 45.0, 30.0, distance=4.0, fov_y_deg=math.degrees(2 * math.atan(400 / 1111.1111))),
        size=224,
        clip=("ViT-B/32", 32),
        needs=(("clip", "openai/clip-vit-base-patch32"),),
        apart="The original looks at the field's centre of mass, here it is the origin. It chooses from its 153 captions and "
        "the prompt: give those as --pool.",
    ),
    "attend-excite": Protocol(
        "yuval-alaluf/Attend-and-Excite @163efdf, metrics/compute_clip_similarity.py",
        VIEWS,
        1,
        clip=("ViT-B/16", 16),
        needs=(("clip", "openai/clip-vit-base-patch16"),),
        apart="The original scores 64 single pictures of a prompt, here each view is one.",
    ),
    "paper": Protocol(
        "Li et al. 2024 (arXiv 2404.18065); FID and Janus after Fei et al. 2024 (arXiv 2402.18780)",
        FIELD,
        4,
        also=(
            (("clip",), "R-Precision"),
            (("captioner", "language-model"), "alignment after T3Bench"),
            (("reference", "inception"), "FID against a text-to-image model's pictures of the same prompts"),
        ),
        apart="The paper's cameras, CLIP model and number of pictures are not known here: these are the field from eight sides "
        "before white, and all prompts of the set to choose from. Janus is counted by people in the original, and not here.",
    ),
}


def check_protocol(name: str, maker: str, given: Iterable[str]) -> Protocol:
    """The protocol, once it can be followed.

    Args:
        maker: as of `Plan`. given: the options of `evaluate` that were set, without dashes.

    Raises:
        ValueError: no such protocol; a maker whose pictures are not what it looks at; a network that it needs and that was not
            given.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol '{name}': there are {', '.join(PROTOCOLS)}")
    protocol, given = PROTOCOLS[name], set(given)
    if protocol.seen != VIEWS and maker == "views":
        raise ValueError(
            f"protocol {name} looks at {protocol.pictures} or more {protocol.seen}, and --maker views makes four views only: "
            "use --maker asset"
        )
    if protocol.seen == VIEWS and maker == "asset":
        raise ValueError(f"protocol {name} looks at {protocol.seen}: use --maker views")
    missing = [f"--{option} ({what})" for option, what in protocol.needs if option not in given]
    if missing:
        raise ValueError(f"protocol {name} needs {' and '.join(missing)}")
    if protocol.also and not any(given.issuperset(options) for options, _ in protocol.also):
        choices = [f"{' with '.join(f'--{option}' for option in options)} ({what})" for options, what in protocol.also]
        raise ValueError(f"protocol {name} needs at least one of {', '.join(choices)}")
    return protocol


def protocol_pictures(name: str, views: ViewSet, field: RadianceField, mesh: Path, own: Cameras) -> ViewSet:
    """What the protocol looks at of a finished asset; `own` are the cameras of one that says none.

    For `t3bench` the mesh is moved and scaled as there: the mean of its vertices at the origin, its largest coordinate 1.
    """
    protocol = PROTOCOLS[name]
    cameras = own if protocol.cameras is None else protocol.cameras()
    height, width = (views.height, views.width) if protocol.size is None else (protocol.size,) * 2
    if protocol.seen == MESH:
        loaded = load_mesh(mesh)
        centred = loaded.vertices - loaded.vertices.mean(0)
        images, masks = render_unlit(
            replace(loaded, vertices=centred / centred.abs().max()), cameras, height, width, protocol.background
        )
    else:
        shown = field.render(cameras, height, width, torch.tensor(protocol.background, device=field.device))
        images, masks = shown.rgb.cpu().clamp(0, 1), shown.alpha.cpu().clamp(0, 1)
    return ViewSet(images, masks, cameras, prompt=views.prompt, seed=views.seed)


def check_pictures(name: str, count: int, item: str) -> None:
    """Raises ValueError when an item does not have as many pictures as the protocol looks at."""
    protocol = PROTOCOLS[name]
    fits = count >= protocol.pictures if protocol.cameras is None else count == protocol.pictures
    if not fits:
        least = "at least " if protocol.cameras is None else ""
        raise ValueError(
            f"protocol {name} looks at {least}{protocol.pictures} {protocol.seen}, item {item} has {count}: a maker of your "
            f"own finds the protocol in its settings and hands over what `protocols.PROTOCOLS['{name}']` says"
        )


def described(name: str, clip: ClipEncoder | None) -> str:
    """A note for the report: what was looked at and what is not as in the original."""
    protocol = PROTOCOLS[name]
    if protocol.clip is not None and clip is not None:
        network, patch = protocol.clip
        if clip.model.config.vision_config.patch_size != patch:
            network = f"{network} in the original, {clip.name} here, so the numbers do not compare with the original's"
        network = f" Judge: CLIP {network}."
    else:
        network = ""
    size = "" if protocol.size is None else f", {protocol.size} x {protocol.size} pixels"
    place = "" if protocol.seen == VIEWS else f"{size}, background {protocol.background}"
    return f"Protocol {name} ({protocol.source}): {protocol.seen}{place}.{network} {protocol.apart}"


# --- what is asked -----------------------------------------------------------------------------------------------------------

_BOTH = (
    "{} bad photo of X", "{} rendering of X", "graffiti of X", "{} cropped photo of X", "{} bright photo of X",
    "{} dark photo of X", "{} drawing of X", "{} close-up photo of X", "{} black and white photo of X", "{} painting of X",
    "{} pixelated photo of X", "{} sculpture of X", "{} jpeg corrupted photo of X", "{} blurry photo of X", "{} photo of X",
    "{} good photo of X", "{} doodle of X", "{} sketch of X", "{} low resolution photo of X", "{} rendition of X",
    "{} tattoo of X", "art of X", "itap of X",
)  # fmt: skip
_KINDS = ("hard to see", "clean", "dirty", "cool", "large", "small", "nice", "weird")
_STUFF = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")


def imagenet_templates() -> list[str]:
    """The 80 phrases into which CLIP's authors put a class (openai/CLIP, notebooks): each form with "a" and with "the"."""
    made = []
    for article in ("a", "the"):
        made += [form.replace("{}", "a").replace("X", article + " {}") + "." for form in _BOTH]
        made += [f"a photo of {article} {kind} {{}}." for kind in _KINDS]
        made += [f"{article} {stuff} {{}}." for stuff in _STUFF]
        made += [f"{article} {{}} in a video game."]
    return [*made, "a photo of many {}.", "a photo of my {}.", "a photo of one {}.", "itap of my {}."]


def embed_with_templates(clip: ClipEncoder, phrase: str) -> Float[Tensor, " D"]:
    """The mean of a phrase's unit embeddings in all templates, of unit length; a doubled article is dropped, as there."""
    texts = [template.format(phrase).replace("a a", "a").replace("the a", "a") for template in imagenet_templates()]
    return F.normalize(clip.embed_texts(texts).mean(0), dim=0)


def halves(prompt: str) -> tuple[str, str] | None:
    """What Attend-and-Excite takes a prompt apart into: before and after "and", or else "with"; None without either."""
    for word in (" and ", " with "):
        if word in prompt:
            first, second = prompt.split(word)[:2]
            return first, second
    return None


def attend_excite_numbers(clip: ClipEncoder, seen: Float[Tensor, "V D"], prompt: str) -> dict[str, float]:
    """Cosines, -1..1, of the pictures' unit embeddings with the prompt's, and with that half which is least there: the lesser
    of the two in each picture, then the mean over pictures. Empty for a prompt that has no two halves."""
    parts = halves(prompt)
    if parts is None:
        return {}
    text = torch.stack([embed_with_templates(clip, phrase) for phrase in (prompt, *parts)])
    cosine = seen @ text.T
    return {
        "attend_excite_full_prompt": float(cosine[:, 0].mean()),
        "attend_excite_minimum_object": float(cosine[:, 1:].amin(1).mean()),
    }


def finds_its_prompt(
    seen: Float[Tensor, "V D"], pool: Float[Tensor, "P D"], prompts: Sequence[str], own: str, embedded: Float[Tensor, " D"]
) -> Bool[Tensor, " V"]:
    """R-Precision of one item's pictures: `pool` are the embeddings of `prompts`, to which its own is added where it is not."""
    if own in prompts:
        return clip_r_precision(seen, pool, torch.full((len(seen),), prompts.index(own)))
    return clip_r_precision(seen, torch.cat((pool, embedded[None])), torch.full((len(seen),), len(pool)))
