"""`MeshConfig`: every setting of the mesh stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PARTS = ("none", "pieces", "words")
MAX_UNWRAP_FACES = 400_000  # xatlas takes minutes and more above


@dataclass(frozen=True)
class MeshConfig:
    """How a field becomes a mesh.

    Attributes:
        resolution: density grid cells along each side of the box, 16..512, a multiple of 4; 512 takes some 3 GB of memory.
        density_threshold: density (1 / world unit) of the surface; None chooses it so that the mesh has the silhouettes that
            the field renders (`density.automatic_threshold`).
        target_faces: decimate to about this many faces; 0 keeps all.
        color: "texture" unwraps and bakes a texture, "vertex" gives colours to vertices only.
        texture_size: texels along each side of the texture, 64..8192.
        min_piece_fraction: connected pieces with less than this part of the largest one's volume are floaters and go, 0..1.
        shell_depth: how far around the surface colour is gathered, in grid cells.
        shell_samples: how many samples of each texel's or vertex's ray are taken there.
        parts: "none" makes one mesh; "pieces" one part for each connected piece; "words" one closed part for each subject that
            the field has labels of, cut where their labels meet, and one called "rest" for what has no label.
    """

    resolution: int = 256
    density_threshold: float | None = None
    target_faces: int = 20_000
    color: Literal["texture", "vertex"] = "texture"
    texture_size: int = 1024
    min_piece_fraction: float = 0.01
    shell_depth: float = 1.5
    shell_samples: int = 5
    parts: Literal["none", "pieces", "words"] = "none"

    def __post_init__(self) -> None:
        if not 16 <= self.resolution <= 512 or self.resolution % 4:
            raise ValueError(f"mesh resolution must be a multiple of 4 between 16 and 512, got {self.resolution}")
        if self.density_threshold is not None and not self.density_threshold > 0:
            raise ValueError(f"the density threshold must be positive, got {self.density_threshold}")
        if self.target_faces != 0 and self.target_faces < 100:
            raise ValueError(f"target_faces must be 0 (keep all) or at least 100, got {self.target_faces}")
        if self.color not in ("texture", "vertex"):
            raise ValueError(f"mesh colour must be 'texture' or 'vertex', got '{self.color}'")
        if self.parts not in PARTS:
            raise ValueError(f"parts must be one of {', '.join(PARTS)}, got '{self.parts}'")
        if self.color == "texture" and self.target_faces > MAX_UNWRAP_FACES:
            raise ValueError(
                f"target_faces {self.target_faces} is too many to unwrap (limit {MAX_UNWRAP_FACES}): "
                "lower it, or use vertex colours"
            )
        if not 64 <= self.texture_size <= 8192:
            raise ValueError(f"texture_size must be between 64 and 8192, got {self.texture_size}")
        if not 0 <= self.min_piece_fraction < 1:
            raise ValueError(f"min_piece_fraction must be at least 0 and below 1, got {self.min_piece_fraction}")
        if not self.shell_depth > 0 or self.shell_samples < 2:
            raise ValueError(
                f"the colour shell needs a positive depth and 2 samples, got {self.shell_depth} and {self.shell_samples}"
            )
