"""How bright a surface is by the way that it faces, in light that is far away, stays where it is and casts no shadows.

    shading(n) = 1 + sum_k c_k Y_k(n),    Y_k the spherical harmonics of first and second order

Lambert's law under any such light is within a few per cent of this (Ramamoorthi and Hanrahan, "An efficient representation for
irradiance environment maps", 2001). The constant is one, since brightness as such is the colour's. With it, what the views
show of light and shade says how a surface of one colour bends, where without it any surface within the outlines would do.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Lighting(nn.Module):
    """Parameter: `coefficients`, `[8]`, of x, y, z, xy, yz, xz, 3z^2 - 1, x^2 - y^2. Zeros, as at first, are even light."""

    def __init__(self) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(8))

    def forward(self, normals: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
        """Factors of the albedo, at least 0, for outward normals in world space of length one at most."""
        x, y, z = normals.unbind(-1)
        harmonics = torch.stack((x, y, z, x * y, y * z, x * z, 3 * z * z - 1, x * x - y * y), -1)
        return (1 + harmonics @ self.coefficients).clamp(min=0)[:, None]
