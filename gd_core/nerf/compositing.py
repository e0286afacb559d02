"""Volume rendering over packed samples: alpha compositing of Max (1995) as NeRF writes it (Mildenhall et al. 2020, eq. 3).

Samples of all rays lie one after another, those of a ray together and front to back. Sums run over a dense `[rays, most
samples]` layout: it is as fast as segment sums, exact where one long running sum would lose digits, and the same in every run.
nerfacc, where it serves, sums in an order of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..devices import NERFACC, backend


@dataclass
class RaySamples:
    """N samples on R rays.

    Attributes:
        ray: `[N]` index of each sample's ray, ascending.
        slot: `[N]` place of each sample in the dense `[R * max_samples]` layout.
        t: `[N]` distance from the ray's origin, world units.
        delta: length that each sample stands for, world units.
        num_rays: R.
        max_samples: the most samples on any ray, at least 1.
    """

    ray: Int[Tensor, " N"]
    slot: Int[Tensor, " N"]
    t: Float[Tensor, " N"]
    delta: float
    num_rays: int
    max_samples: int

    def dense(self, values: Float[Tensor, "N ..."]) -> Float[Tensor, "R S ..."]:
        """Packed values in the dense layout, zero where a ray has no more samples."""
        out = values.new_zeros((self.num_rays * self.max_samples, *values.shape[1:]))
        out = out.index_copy(0, self.slot, values)
        return out.unflatten(0, (self.num_rays, self.max_samples))

    def take(self, indices: Int[Tensor, " M"]) -> RaySamples:
        """Some of the samples, each in its place of the dense layout."""
        return replace(
            self,
            ray=self.ray.index_select(0, indices),
            slot=self.slot.index_select(0, indices),
            t=self.t.index_select(0, indices),
        )

    def sum(self, values: Float[Tensor, "N ..."]) -> Float[Tensor, "R ..."]:
        """Sum over each ray's samples; zero for a ray without any."""
        return self.dense(values).sum(1)


def pack(keep: Bool[Tensor, "R S"], t: Float[Tensor, "R S"], delta: float) -> RaySamples:
    """The samples that `keep` marks, in packed order."""
    flat = keep.view(-1).nonzero()[:, 0]
    return from_rays(flat // keep.shape[1], t.reshape(-1).index_select(0, flat), delta, len(keep))


def from_rays(ray: Int[Tensor, " N"], t: Float[Tensor, " N"], delta: float, num_rays: int) -> RaySamples:
    """Samples from their rays' indices, ascending, and their distances."""
    counts = torch.bincount(ray, minlength=num_rays)
    most = max(int(counts.max()), 1) if num_rays else 1
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(ray), device=ray.device) - first.index_select(0, ray)
    return RaySamples(ray, ray * most + rank, t, delta, num_rays, most)


def render_weights(samples: RaySamples, density: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """w_i = T_i (1 - exp(-sigma_i delta_i)), T_i = exp(-sum_{j<i} sigma_j delta_j); density in 1 / world unit."""
    if backend(NERFACC, density.device).serves:
        import nerfacc  # noqa: PLC0415  only where CUDA and the package are there

        ends = samples.t + samples.delta / 2
        weights, _, _ = nerfacc.render_weight_from_density(
            ends - samples.delta, ends, density, ray_indices=samples.ray, n_rays=samples.num_rays
        )
        return weights
    return plain_weights(samples, density)


def plain_weights(samples: RaySamples, density: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """`render_weights` in plain torch."""
    optical = density * samples.delta
    dense = samples.dense(optical)
    before = (dense.cumsum(1) - dense).flatten().index_select(0, samples.slot)
    return torch.exp(-before) * -torch.expm1(-optical)
