"""How bright a surface is by the way that it faces, in light that casts no shadows: some that stays where it is, and a lamp.

    shading(n, v) = 1 + sum_k c_k Y_k(n) + a (n.v - 2/3),    highlight(n, v) = g (n.v)^s

Y_k are the spherical harmonics of first and second order: Lambert's law under any light that is far away and stays where it
is comes within a few per cent of this (Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment maps",
2001).
The constant is one, since brightness as such is the colour's. v points to the camera, where multi-view models often have a lamp
that goes with it: a is its part of the light, and g and s its highlights (Phong 1975), which are white. A camera sees surfaces
at a mean n.v of 2/3, so that the lamp is neither bright nor dark where nobody looks, as on an exported mesh.

With light, what the views show of light and shade says how a surface of one colour bends, where without it any surface within
the outlines would do.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

MEAN_FACING = 2 / 3
SHARPNESS = 20.0  # s, at first
SHARPEST, DULLEST = 100.0, 4.0


class Lighting(nn.Module):
    """Parameters, all zero at first, which is even light:

    `coefficients`, `[8]`, of x, y, z, xy, yz, xz, 3z^2 - 1, x^2 - y^2; `lamp`, `[3]`: a, g and ln(s / 20).
    """

    def __init__(self) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(8))
        self.lamp = nn.Parameter(torch.zeros(3))

    def forward(self, normals: Float[Tensor, "N 3"], facing: Float[Tensor, " N"] | None = None) -> Float[Tensor, "N 1"]:
        """Factors of the albedo, at least 0.

        Args:
            normals: outward, in world space, of length one at most. facing: n.v, where somebody looks.
        """
        x, y, z = normals.unbind(-1)
        harmonics = torch.stack((x, y, z, x * y, y * z, x * z, 3 * z * z - 1, x * x - y * y), -1)
        shading = 1 + harmonics @ self.coefficients
        if facing is not None:
            shading = shading + self.lamp[0] * (facing - MEAN_FACING)
        return shading.clamp(min=0)[:, None]

    def highlight(self, facing: Float[Tensor, " N"]) -> Float[Tensor, "N 1"]:
        """What the lamp adds to all three colours."""
        sharpness = (SHARPNESS * self.lamp[2].exp()).clamp(DULLEST, SHARPEST)
        return (self.lamp[1] * (sharpness * facing.clamp(min=1e-3).log()).exp())[:, None]
