"""From prompts to `ViewSet`s: encode, denoise, decode, mask.

Noise is drawn on the CPU from one generator an object, view by view, so that a seed means the same views on every device and in
every batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..attention import AttentionCapture, AttentionRecord, Focus, RefocusConfig, Refocuser
from ..attention.subjects import noun_phrases
from ..cameras import Cameras
from ..subject_masks import named_subjects
from ..views import Progress, ViewSet
from .denoising import sample_latents
from .foreground import foreground_masks
from .model import MVDream
from .multiview import predict_noise
from .prompts import PromptEmbedding, encode_prompt

MAX_SEED = 2**64 - 1
# A decoder this small costs less than a UNet step, so previews show real images; larger ones get the linear approximation.
SMALL_VAE_PARAMETERS = 5_000_000
# Latents to RGB for Stable Diffusion's kl-f8 autoencoder, as a least-squares fit; the constants that ComfyUI's previews use.
SD_LATENT_RGB = (
    (0.3512, 0.2297, 0.3227),
    (0.3250, 0.4974, 0.2350),
    (-0.2829, 0.1762, 0.2721),
    (-0.2120, -0.2616, -0.7177),
)


@dataclass(frozen=True)
class StepReport:
    """One object after one step, for live displays.

    Attributes:
        object_index: which of the objects in the batch.
        step, total: steps done, counted from 1, and in all.
        presence: focus word key -> how present the word is in its attention maps, 0..1 (`word_presence`).
        threshold: the presence that refocusing repeated its update for at this step, or None.
        attention: word key -> `[V, h, w]` float32 on the CPU, this step's maps.
    """

    object_index: int
    step: int
    total: int
    presence: dict[str, float]
    threshold: float | None
    attention: dict[str, Tensor]


def sample_views(model: MVDream, prompt: str, *, seed: int, focus: Focus | None = None, **settings) -> ViewSet:
    """Views of one object; `sample_objects` for one prompt, seed and focus, with the same keyword settings."""
    return sample_objects(model, [prompt], seeds=[seed], focuses=[focus], **settings)[0]


@torch.no_grad()
def sample_objects(
    model: MVDream,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    focuses: Sequence[Focus | None] | None = None,
    refocus: RefocusConfig | Literal["auto"] | None = None,
    negative_prompt: str = "",
    steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_rescale: float | None = None,
    sampler: str | None = None,
    cameras: Cameras | None = None,
    progress: Progress | None = None,
    on_report: Callable[[StepReport], None] | None = None,
) -> list[ViewSet]:
    """Views of several objects in one batch: every UNet pass runs over all of them.

    Args:
        prompts, seeds: one of each for every object; seeds 0 to 2^64 - 1.
        focuses: one an object, None for the prompt's subjects at weight 1 (`Focus.of_subjects`).
        refocus: attention refocusing, "auto" as the model's recipe has it; None samples plainly. Attention maps are recorded
            either way.
        negative_prompt: shared by the objects; "" is MVDream's.
        steps, guidance_scale, guidance_rescale, sampler: see `SamplingConfig`; None takes the model's recipe.
        cameras: shared by the objects, one a view; None takes the orbit that the model was trained for.
        progress: called every step with a preview of x0, `[B*H, V*W, 3]`: one row of views an object.
        on_report: called every step and object with its words' presence and maps. Like `progress` it may raise to cancel.

    Raises:
        ValueError: for an empty prompt, a prompt that the model cannot read, a focus word that is not in the prompt, a bad
            seed or setting.
    """
    if not prompts or len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts came with {len(seeds)} seeds: give one seed for each prompt")
    refuse_request(prompts, seeds)
    cameras = model.default_cameras() if cameras is None else cameras
    if len(cameras) == 0:
        raise ValueError("no cameras: give one for each view")
    num_views = len(cameras)
    given = {"steps": steps, "guidance_scale": guidance_scale, "guidance_rescale": guidance_rescale, "sampler": sampler}
    sampling = replace(model.recipe.sampling, **{name: value for name, value in given.items() if value is not None})
    refocus = model.recipe.refocus if refocus == "auto" else refocus

    embeddings = [encode_prompt(model, prompt) for prompt in prompts]
    focuses = [_located(focus, e) for focus, e in zip(focuses or [None] * len(prompts), embeddings, strict=True)]
    negative = encode_prompt(model, negative_prompt, suffix=False)
    context = torch.cat([e.embeddings for e in embeddings])
    conditioning = cameras.conditioning().to(model.device, model.dtype)
    noise = torch.cat([initial_noise(seed, num_views, model.latent_size) for seed in seeds]).to(model.device, model.dtype)
    record = AttentionRecord([e.words for e in embeddings], focuses, refocus or model.recipe.refocus, num_views)

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        return predict_noise(model.unet, latents, timestep, context, conditioning.repeat(len(prompts), 1), num_views)

    refocuser = None
    if refocus is not None:
        refocuser = Refocuser(model.unet, predict, focuses, refocus, num_views=num_views, steps=sampling.steps)
    capture = AttentionCapture(
        model.unet,
        downscale=record.config.downscale,
        layers=record.config.layers,
        num_tokens=record.num_tokens,
        last_images=len(noise),
    )

    def on_step(step: int, x0: Tensor) -> None:
        maps = capture.take(*x0.shape[-2:])
        record.add(maps)
        if on_report is not None:
            threshold = refocuser.thresholds.get(step - 1) if refocuser is not None else None
            for i, (presence, attention) in enumerate(zip(record.presence(maps), record.attention(maps), strict=True)):
                on_report(StepReport(i, step, sampling.steps, presence, threshold, attention))
        if progress is not None:
            progress(step, sampling.steps, latent_preview(model, x0, num_views))

    start = time.perf_counter()
    with capture:
        latents = sample_latents(
            model.unet,
            noise,
            context,
            negative.embeddings,
            conditioning,
            num_views=num_views,
            **asdict(sampling),
            schedule=model.scheduler,
            adjust=refocuser,
            num_adjusted=refocuser.num_altered if refocuser is not None else 0,
            on_step=on_step,
        )
    settings = {
        "model": model.config.name,
        **asdict(sampling),
        "refocus": None if refocus is None else asdict(refocus),
        "sampling_seconds": round((time.perf_counter() - start) / len(prompts), 3),
    }
    views = []
    maps = record.mean()
    for i, (presence, attention) in enumerate(zip(record.presence(maps), record.attention(maps), strict=True)):
        of_object = latents[i * num_views : (i + 1) * num_views]
        images = torch.cat([model.decode(one) for one in of_object.split(1)]).cpu()
        provenance = settings | {"focus": json.loads(focuses[i].to_json()), "presence": presence}
        provenance["subjects"] = named_subjects(
            [(p.noun.key, " ".join(w.text for w in (*p.modifiers, p.noun))) for p in noun_phrases(prompts[i])]
        )
        if refocuser is not None:
            provenance["refocus_report"] = asdict(refocuser.reports[i])
        views.append(
            ViewSet(
                images=images,
                masks=foreground_masks(images),
                cameras=cameras.to("cpu").clone(),
                attention=attention,
                latents=of_object.float().cpu(),
                prompt=prompts[i],
                negative_prompt=negative_prompt,
                seed=seeds[i],
                provenance=provenance,
                recipe=model.recipe,
            )
        )
    return views


def refuse_request(prompts: Sequence[str], seeds: Sequence[int]) -> None:
    """ValueError for an empty prompt or a seed out of range; needs no model."""
    for prompt in prompts:
        if not prompt.strip():
            raise ValueError("the prompt is empty: say what to make, for example 'a red cube and a blue sphere'")
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed must be between 0 and {MAX_SEED}, got {seed}")


def _located(focus: Focus | None, prompt: PromptEmbedding) -> Focus:
    focus = Focus.of_subjects(prompt.text) if focus is None else focus
    return focus.locate(prompt.text, prompt.words, prompt.end_token)


def initial_noise(seed: int, num_views: int, size: int) -> Float[Tensor, "V 4 size size"]:
    """Unit Gaussian noise for each view of an object, from one CPU generator."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randn(1, 4, size, size, generator=generator) for _ in range(num_views)])


@torch.no_grad()
def latent_preview(model: MVDream, x0: Float[Tensor, "BV 4 h w"], num_views: int) -> Float[Tensor, "BH VW 3"]:
    """Predicted clean latents as one image on the CPU, 0..1: one row of views an object.

    Small autoencoders decode; large ones are approximated linearly, at an eighth of the resolution scaled up.
    """
    if sum(p.numel() for p in model.vae.parameters()) <= SMALL_VAE_PARAMETERS:
        images = model.decode(x0)
    else:
        factors = torch.tensor(SD_LATENT_RGB, device=x0.device)
        images = (torch.einsum("nchw,cr->nrhw", x0.float(), factors) / 2 + 0.5).clamp(0, 1)
        images = F.interpolate(images, scale_factor=model.vae_scale_factor, mode="nearest").movedim(1, -1)
    rows = images.unflatten(0, (-1, num_views))  # [B, V, H, W, 3]
    return rows.movedim(2, 1).flatten(2, 3).flatten(0, 1).cpu()
