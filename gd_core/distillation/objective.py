"""The hybrid objective: what the four reference views say, and what the diffusion model says of four other views.

    L = w_ref |C - C_ref|^2 + w_mask |A - M_ref|^2 + w_sds(t) L_SDS + w_orient L_orient + w_opacity L_opacity + w_bend |d''|^2

Reference rays keep the composition; SDS on a random orbit of orthogonal cameras fills in what no reference view sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..cameras import Cameras, orbit_cameras
from ..nerf.evidence import view_backgrounds
from ..nerf.field import RadianceField
from ..settings.refine import RefineConfig
from ..views import ViewSet
from .guidance import Guidance

ORIENT_RAYS = 256  # normals cost seven field queries a sample, and their penalty is an average anyway
HELD_BACK_TIMESTEPS = (200, 400, 600)


def between(bounds: tuple[float, float], share: float) -> float:
    """`share` 0 gives the lower bound, 1 the upper one."""
    return bounds[0] + (bounds[1] - bounds[0]) * share


@dataclass
class ReferenceRays:
    """Every pixel of the reference views as a ray, with what it should see.

    Attributes:
        origins, directions: `[R, 3]`. colors: `[R, 3]` 0..1, before the views' own background. masks: `[R]` 0..1.
        own_background: `[R, 3]`, the plain colour that the ray's view stands before.
    """

    origins: Float[Tensor, "R 3"]
    directions: Float[Tensor, "R 3"]
    colors: Float[Tensor, "R 3"]
    masks: Float[Tensor, " R"]
    own_background: Float[Tensor, "R 3"]


def reference_rays(views: ViewSet, device: torch.device) -> ReferenceRays:
    origins, directions = views.cameras.rays(views.height, views.width)
    background = view_backgrounds(views)[:, None, None].expand_as(views.images)
    tensors = (origins, directions, views.images, views.masks[..., None], background)
    origins, directions, colors, masks, background = (t.flatten(0, 2).to(device) for t in tensors)
    return ReferenceRays(origins, directions, colors, masks[:, 0], background)


def render_views(
    field: RadianceField,
    cameras: Cameras,
    size: int,
    background: Float[Tensor, " 3"],
    generator: torch.Generator | None,
    rays_per_chunk: int,
) -> tuple[Float[Tensor, "V s s 3"], Float[Tensor, "V s s"]]:
    """Colour and opacity of square views, differentiable. Chunks are recomputed in the backward pass when there are several, so
    that the activations of one chunk are held at a time."""
    origins, directions = (r.flatten(0, 2) for r in cameras.to(field.device).rays(size, size))
    chunks = list(zip(origins.split(rays_per_chunk), directions.split(rays_per_chunk), strict=True))
    colors, alphas = [], []
    for o, d in chunks:
        samples = field.occupancy.march(o, d, field.config.step, generator)
        if len(chunks) > 1 and torch.is_grad_enabled():
            out = checkpoint(field.render_samples, o, d, samples, background, use_reentrant=False)
        else:
            out = field.render_samples(o, d, samples, background)
        colors.append(out.rgb)
        alphas.append(out.alpha)
    shape = (len(cameras), size, size)
    return torch.cat(colors).unflatten(0, shape), torch.cat(alphas).unflatten(0, shape)


@dataclass
class HybridObjective:
    """The terms of the loss for one scene; all randomness comes from the generator it is handed.

    Attributes:
        distance, fov_y_deg: of the reference views' cameras.
        max_image_size, rays_per_chunk: limits of the memory preset, which may change during the run.
    """

    config: RefineConfig
    guidance: Guidance
    reference: ReferenceRays
    views: ViewSet
    max_image_size: int = 256
    rays_per_chunk: int = 65536

    def __post_init__(self) -> None:
        self.distance = float(self.views.cameras.positions.norm(dim=1).mean())
        self.fov_y_deg = float(self.views.cameras.fov_y_deg.mean())
        self.background = view_backgrounds(self.views).mean(dim=0)

    def terms(
        self, field: RadianceField, share: float, sds_weight: float, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Weighted terms by name, which sum to the loss, and the first SDS render `[s, s, 3]` as a preview.

        Args:
            share: of the run that is done, 0..1.
            sds_weight: what the ramp says here, after the guard's cuts.
        """
        config = self.config
        terms = self._reference_terms(field, generator)
        if sds_weight == 0:
            return terms, None
        if config.bending > 0:
            terms["bending"] = config.bending * field.shape.bending()
        cameras = self.random_cameras(generator)
        size = self.image_size(share)
        background = self._random_background(generator).to(field.device)
        timestep = config.timesteps.draw(share, generator)
        images, alpha = render_views(field, cameras, size, background, generator, self.rays_per_chunk)
        sds = self.guidance.loss(
            images,
            cameras,
            timestep,
            generator,
            guidance_scale=config.guidance_scale,
            std_rescale=config.std_rescale,
            form=config.form,
        )
        terms["sds"] = sds_weight * sds.to(field.device) / self.guidance.latent_numel
        if config.opacity_weight > 0:
            inside = alpha.clamp(1e-3, 1 - 1e-3)
            terms["opacity"] = config.opacity_weight * F.binary_cross_entropy(inside, inside)
        if config.orient_weight > 0:
            terms["orientation"] = config.orient_weight * self._orientation(field, cameras, size, generator)
        return terms, images[0].detach().clamp(0, 1).cpu()

    def _reference_terms(self, field: RadianceField, generator: torch.Generator) -> dict[str, Tensor]:
        config, reference = self.config, self.reference
        if config.reference_weight == 0 and config.mask_weight == 0:
            return {}
        device = field.device
        pick = torch.randint(len(reference.masks), (config.reference_rays,), generator=generator).to(device)
        background = torch.rand(config.reference_rays, 3, generator=generator).to(device)
        out = field.render_rays(reference.origins[pick], reference.directions[pick], background, generator)
        mask = reference.masks[pick]
        wanted = reference.colors[pick] + (1 - mask[:, None]) * (background - reference.own_background[pick])
        return {
            "reference": config.reference_weight * (out.rgb - wanted).square().mean(),
            "mask": config.mask_weight * (out.alpha - mask).square().mean(),
        }

    def _orientation(self, field: RadianceField, cameras: Cameras, size: int, generator: torch.Generator) -> Tensor:
        """Mean over rays of sum_i w_i max(0, n_i . d)^2: visible normals must face the camera."""
        origins, directions = (r.flatten(0, 2) for r in cameras.to(field.device).rays(size, size))
        pick = torch.randint(len(origins), (ORIENT_RAYS,), generator=generator).to(field.device)
        out = field.render_rays(origins[pick], directions[pick], 1.0, generator)
        away = (out.seen_normals * directions[pick][out.samples.ray[out.seen]]).sum(-1).clamp(min=0)
        return (out.weights[out.seen] * away.square()).sum() / ORIENT_RAYS

    def random_cameras(self, generator: torch.Generator) -> Cameras:
        """Four orthogonal views: one elevation, azimuth offset, field of view and distance for the group."""
        config = self.config
        coin, u, v, w, x = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        if coin < config.uniform_elevation:
            elevation = between(config.elevation_deg, u)
        else:  # as MVDream-threestudio draws it: between 0 and 30 degrees it reaches 19.5
            low, high = ((bound + 90) / 180 for bound in config.elevation_deg)
            elevation = math.degrees(math.asin(2 * between((low, high), u) - 1))
        fov_y_deg = self.fov_y_deg if config.fov_y_deg is None else between(config.fov_y_deg, w)
        distance = self.distance
        if config.relative_distance is not None:
            distance = between(config.relative_distance, x) / math.tan(math.radians(fov_y_deg) / 2)
        return orbit_cameras(4, elevation, 360 * v, distance=distance, fov_y_deg=fov_y_deg)

    def image_size(self, share: float) -> int:
        """Pixels a side of the SDS renders."""
        scale = [s for since, s in self.config.milestones if share >= since][-1]
        return min(max(8, round(self.guidance.image_size * scale)), self.max_image_size)

    def _random_background(self, generator: torch.Generator) -> Float[Tensor, " 3"]:
        coin, grey = torch.rand(2, generator=generator).tolist()
        return torch.full((3,), grey) if coin < self.config.random_background else self.background

    @torch.no_grad()
    def held_back_score(self, field: RadianceField) -> float:
        """How well the model likes an orbit half way between the reference views that no step ever optimises; more is better.

        Minus the squared distance, per latent number, between the latents of the renders and the unguided x0 predictions
        at fixed timesteps and fixed noise.
        """
        cameras = orbit_cameras(
            4, sum(self.config.elevation_deg) / 2, self.held_back_azimuth(), distance=self.distance, fov_y_deg=self.fov_y_deg
        )
        size = min(self.guidance.image_size, self.max_image_size)
        images, _ = render_views(field, cameras, size, self.background.to(field.device), None, self.rays_per_chunk)
        latents = self.guidance.encode(images, torch.Generator().manual_seed(0))
        losses = [
            self.guidance.latent_loss(
                latents, cameras, t, torch.Generator().manual_seed(t), guidance_scale=1.0, std_rescale=0.0
            )
            for t in HELD_BACK_TIMESTEPS
        ]
        return -2 * float(torch.stack(losses).mean()) / self.guidance.latent_numel

    def held_back_azimuth(self) -> float:
        """Degrees: half a quarter turn beyond the first reference view."""
        x, y = self.views.cameras.positions[0, :2].double()
        return float(torch.rad2deg(torch.atan2(x, -y))) + 45.0
