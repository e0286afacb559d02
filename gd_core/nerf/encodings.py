"""Spatial encodings behind one interface: a module with `features` that turns points `[N, 3]` in 0..1 into `[N, features]`.

`VMPlanes` is the vector-matrix decomposition of TensoRF (Chen et al. 2022, equation 4): three planes and three lines whose
products stand for a volume. It is the default, since on a CPU it costs a twentieth of a hash grid. `HashGrid` is the
multi-resolution hash encoding of Instant NGP (Müller et al. 2022) in plain torch with tiny-cuda-nn's conventions and
parameter layout, so that a field fitted with the one loads with the other.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..devices import TINYCUDANN, backend
from ..settings.fit import EncodingConfig as EncodingConfig

HASH_PRIMES = (1, 2654435761, 805459861)  # Instant NGP, equation 4
HASH_FEATURES = 2  # a level


def make_encoding(config: EncodingConfig, device: torch.device, generator: torch.Generator) -> nn.Module:
    """The encoding that `config` names, on `device`, which decides between tiny-cuda-nn and plain torch."""
    if config.kind == "vm":
        return VMPlanes(config, generator).to(device)
    if backend(TINYCUDANN, device).serves:
        return tiny_cuda_hash_grid(config, generator).to(device)
    return HashGrid(config, generator).to(device)


class VMPlanes(nn.Module):
    """Planes over (x, y), (x, z), (y, z), each times a line over the axis that is left."""

    PLANE_AXES = ((0, 1), (0, 2), (1, 2))
    LINE_AXES = (2, 1, 0)

    def __init__(self, config: EncodingConfig, generator: torch.Generator) -> None:
        super().__init__()
        shape = (3, config.channels, config.resolution)
        self.features = 3 * config.channels
        self.planes = nn.Parameter(0.1 * torch.randn(*shape, config.resolution, generator=generator))
        self.lines = nn.Parameter(0.3 + 0.1 * torch.randn(*shape, 1, generator=generator))

    @property
    def resolution(self) -> int:
        return self.planes.shape[-1]

    @torch.no_grad()
    def resize(self, resolution: int) -> None:
        """Resample to another resolution. The parameters are new objects: an optimiser must be made anew."""
        for name, size in (("planes", (resolution, resolution)), ("lines", (resolution, 1))):
            resampled = nn.functional.interpolate(getattr(self, name), size, mode="bilinear", align_corners=True)
            setattr(self, name, nn.Parameter(resampled))

    def variation(self) -> Tensor:
        """Scalar: mean squared difference between neighbouring texels, of the planes in both directions and of the lines.

        TensoRF's total variation (Chen et al. 2022), averaged so that it does not grow with the number of texels.
        """
        planes, lines = self.planes, self.lines
        return sum(p.diff(dim=d).square().mean() for p, d in ((planes, -1), (planes, -2), (lines, -2)))

    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N features"]:
        grid = points * 2 - 1
        on_plane = torch.stack([grid[:, axes] for axes in self.PLANE_AXES])[:, None]
        on_line = torch.stack([grid[:, axis] for axis in self.LINE_AXES])[:, None]
        on_line = torch.stack((torch.zeros_like(on_line), on_line), dim=-1)
        planes = nn.functional.grid_sample(self.planes, on_plane, align_corners=True, padding_mode="border")
        lines = nn.functional.grid_sample(self.lines, on_line, align_corners=True, padding_mode="border")
        return (planes * lines).reshape(self.features, -1).T


class HashGrid(nn.Module):
    """Multi-resolution hash grid with tiny-cuda-nn's level sizes, half-cell offset and flat parameter layout."""

    def __init__(self, config: EncodingConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.features = HASH_FEATURES * config.levels
        self.scales = [config.base_resolution * config.level_scale**level - 1 for level in range(config.levels)]
        self.resolutions = [math.ceil(scale) + 1 for scale in self.scales]
        self.sizes = [min((r**3 + 7) // 8 * 8, 2**config.log2_table) for r in self.resolutions]
        self.params = nn.Parameter(1e-4 * (2 * torch.rand(sum(self.sizes) * HASH_FEATURES, generator=generator) - 1))

    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N features"]:
        tables = self.params.view(-1, HASH_FEATURES).split(self.sizes)
        levels = []
        for table, scale, resolution in zip(tables, self.scales, self.resolutions, strict=True):
            position = points * scale + 0.5
            corner = position.floor()
            fraction = position - corner
            feature = points.new_zeros(len(points), HASH_FEATURES)
            for bits in range(8):
                offset = torch.tensor([bits & 1, bits >> 1 & 1, bits >> 2 & 1], device=points.device)
                weight = torch.where(offset.bool(), fraction, 1 - fraction).prod(dim=1)
                feature = feature + weight[:, None] * table[_table_index(corner.long() + offset, resolution, len(table))]
            levels.append(feature)
        return torch.cat(levels, dim=1)


def _table_index(cell: Tensor, resolution: int, size: int) -> Tensor:
    """Row-major while the level fits its table, hashed in 32-bit arithmetic where it does not."""
    x, y, z = cell.unbind(1)
    if resolution**3 <= size:
        return (x + resolution * (y + resolution * z)) % size
    return ((x * HASH_PRIMES[0] ^ y * HASH_PRIMES[1] ^ z * HASH_PRIMES[2]) & 0xFFFFFFFF) % size


def tiny_cuda_hash_grid(config: EncodingConfig, generator: torch.Generator) -> nn.Module:
    """tiny-cuda-nn's hash grid; its one parameter, `params`, is laid out as that of `HashGrid`."""
    import tinycudann  # noqa: PLC0415  only where CUDA and the package are there

    grid = {
        "otype": "HashGrid",
        "n_levels": config.levels,
        "n_features_per_level": HASH_FEATURES,
        "log2_hashmap_size": config.log2_table,
        "base_resolution": config.base_resolution,
        "per_level_scale": config.level_scale,
    }
    seed = int(torch.randint(2**31, (), generator=generator))
    encoding = tinycudann.Encoding(3, grid, seed=seed, dtype=torch.float32)
    encoding.features = HASH_FEATURES * config.levels
    return encoding
