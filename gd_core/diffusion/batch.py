"""`Batch`: objects that are sampled together, with everything that is known of them on the way.

Noise is drawn on the CPU from one generator an object, view by view, so that a seed means the same views on every device and in
every batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..attention import AttentionCapture, AttentionRecord, Focus, RefocusConfig, Refocuser
from ..cameras import Cameras
from ..settings.sampling import SamplingConfig
from ..settings.verdict import VerdictConfig
from ..verdicts import THERE, SubjectVerdict
from ..views import ViewSet
from .denoising import Denoising
from .foreground import foreground_masks
from .model import MVDream
from .multiview import predict_noise
from .prompts import PromptEmbedding
from .verdict import Witness

# A decoder this small costs less than a UNet step, so previews show real images; larger ones get the linear approximation.
SMALL_VAE_PARAMETERS = 5_000_000
# Latents to RGB for Stable Diffusion's kl-f8 autoencoder, as a least-squares fit; the constants that ComfyUI's previews use.
SD_LATENT_RGB = (
    (0.3512, 0.2297, 0.3227),
    (0.3250, 0.4974, 0.2350),
    (-0.2829, 0.1762, 0.2721),
    (-0.2120, -0.2616, -0.7177),
)
AFTER_STEP = Callable[["Batch", Tensor, "Tensor | None"], None]
"""`after(batch, x0, maps)`: told of every step, with the step's own maps. It may raise to cancel."""


@dataclass(frozen=True)
class Request:
    """What all objects of a run share.

    Attributes:
        attention: whether the model has maps of the size that is asked for.
        negative: `[1, 77, C]`, the negative prompt encoded. cameras: one a view. conditioning: `[V, 16]`, theirs.
        refocus: None samples plainly. early: steps after which a first verdict may be asked for.
    """

    model: MVDream
    sampling: SamplingConfig
    refocus: RefocusConfig | None
    verdict: VerdictConfig
    attention: bool
    negative_prompt: str
    negative: Tensor
    cameras: Cameras
    conditioning: Tensor
    early: int

    @property
    def num_views(self) -> int:
        return len(self.cameras)

    @property
    def maps_of(self) -> RefocusConfig:
        """The settings that say whose attention is read."""
        return self.refocus or self.model.recipe.refocus


class Batch:
    """B objects on their way.

    Attributes:
        step: how many steps are done. early: each object's verdicts when `look` was last called, until then none.
        x0: `[B*V, 4, h, w]`, the clean latents that the model expects now, None before a step.
    """

    def __init__(
        self, request: Request, prompts: Sequence[PromptEmbedding], seeds: Sequence[int], focuses: Sequence[Focus]
    ):
        model, num_views = request.model, request.num_views
        self.request, self.prompts, self.seeds, self.focuses = request, prompts, seeds, focuses
        noise = torch.cat([initial_noise(seed, num_views, model.latent_size) for seed in seeds])
        self.record = AttentionRecord([p.words for p in prompts], focuses, request.maps_of, num_views)
        self.witnesses = [Witness(model, prompt, request.conditioning, request.verdict) for prompt in prompts]
        self.refocuser = self._refocuser()
        self.denoising = Denoising(
            model.unet,
            noise.to(model.device, model.dtype),
            torch.cat([p.embeddings for p in prompts]),
            request.negative,
            request.conditioning,
            num_views=num_views,
            **asdict(request.sampling),
            schedule=model.scheduler,
            num_adjusted=0 if self.refocuser is None else self.refocuser.num_altered,
        )
        self.x0: Tensor | None = None
        self.early: list[tuple[SubjectVerdict, ...]] = [()] * len(seeds)
        self.seconds = 0.0

    def _refocuser(self) -> Refocuser | None:
        request = self.request
        if request.refocus is None:
            return None
        unet, context = request.model.unet, torch.cat([p.embeddings for p in self.prompts])
        cameras = request.conditioning.repeat(len(self.prompts), 1)

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            return predict_noise(unet, latents, timestep, context, cameras, request.num_views)

        return Refocuser(
            unet,
            predict,
            self.focuses,
            request.refocus,
            num_views=request.num_views,
            steps=request.sampling.steps,
            first=request.early if request.refocus.when == "doubtful" else 0,
        )

    @property
    def step(self) -> int:
        return self.denoising.step

    def go(self, until: int | None, after: AFTER_STEP) -> None:
        """Go on to step `until`, None for the last."""
        start = time.perf_counter()
        capture = self._capture()

        def on_step(step: int, x0: Tensor) -> None:
            self.x0 = x0
            maps = None if capture is None else capture.take(*x0.shape[-2:])
            if maps is not None:
                self.record.add(maps)
            after(self, x0, maps)

        with nullcontext() if capture is None else capture:
            self.denoising.run(until, adjust=self.refocuser, on_step=on_step)
        self.seconds += time.perf_counter() - start

    def _capture(self) -> AttentionCapture | None:
        config = self.request.maps_of
        if not self.request.attention:
            return None
        return AttentionCapture(
            self.request.model.unet,
            downscale=config.downscale,
            layers=config.layers,
            num_tokens=self.record.num_tokens,
            last_images=len(self.denoising.latents),
        )

    def of(self, index: int) -> Batch:
        """The `index`-th object alone, from where it is."""
        alone, views = copy(self), self.request.num_views
        for name in ("prompts", "seeds", "focuses", "witnesses", "early"):
            setattr(alone, name, getattr(self, name)[index : index + 1])
        alone.denoising, alone.record = self.denoising.of(index), self.record.of(index)
        alone.x0 = None if self.x0 is None else self.x0[index * views : (index + 1) * views]
        alone.refocuser = alone._refocuser()
        if self.refocuser is not None:
            alone.refocuser.reports = self.refocuser.reports[index : index + 1]
        alone.seconds = self.seconds / len(self.seeds)
        return alone

    def look(self) -> None:
        """Reach the early verdicts, on what the objects seem to become; refocusing for doubt leaves alone what is sure."""
        self.early = self._judged(self.x0, final=False)
        if self.refocuser is None or self.refocuser.config.when == "always":
            return
        for i, of_object in enumerate(self.early):
            if all(verdict.word == THERE for verdict in of_object):
                self.refocuser.rest(i, "no subject is in doubt")

    def _judged(self, clean: Tensor, *, final: bool) -> list[tuple[SubjectVerdict, ...]]:
        start, num_views = time.perf_counter(), self.request.num_views
        maps = self.record.mean().split(num_views) if self.request.attention else [None] * len(self.seeds)
        verdicts = [
            witness.judge(of_object, seen, final=final)
            for witness, of_object, seen in zip(self.witnesses, clean.split(num_views), maps, strict=True)
        ]
        self.seconds += time.perf_counter() - start
        return verdicts

    def views(self) -> list[ViewSet]:
        """Of each object, once all steps are done."""
        request, num_views = self.request, self.request.num_views
        verdicts = [
            tuple(replace(v, early=e.features) for v, e in zip(of_object, early, strict=True)) if early else of_object
            for of_object, early in zip(self._judged(self.denoising.latents, final=True), self.early, strict=True)
        ]
        settings = {
            "model": request.model.config.name,
            **asdict(request.sampling),
            "refocus": None if request.refocus is None else asdict(request.refocus),
            "sampling_seconds": round(self.seconds / len(self.seeds), 3),
        }
        presences, attentions = [{}] * len(self.seeds), [{}] * len(self.seeds)
        if request.attention:
            maps = self.record.mean()
            presences, attentions = self.record.presence(maps), self.record.attention(maps)
        views = []
        for i, (presence, attention) in enumerate(zip(presences, attentions, strict=True)):
            latents = self.denoising.latents[i * num_views : (i + 1) * num_views]
            images = torch.cat([request.model.decode(one) for one in latents.split(1)]).cpu()
            provenance = settings | {"focus": json.loads(self.focuses[i].to_json()), "presence": presence}
            provenance["subjects"] = self.witnesses[i].named
            if self.refocuser is not None:
                provenance["refocus_report"] = asdict(self.refocuser.reports[i])
            views.append(
                ViewSet(
                    images=images,
                    masks=foreground_masks(images),
                    cameras=request.cameras.to("cpu").clone(),
                    attention=attention,
                    latents=latents.float().cpu(),
                    prompt=self.prompts[i].text,
                    negative_prompt=request.negative_prompt,
                    seed=self.seeds[i],
                    provenance=provenance,
                    verdicts=verdicts[i],
                    recipe=request.model.recipe,
                )
            )
        return views


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
