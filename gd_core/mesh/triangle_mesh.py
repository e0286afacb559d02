"""`TriangleMesh`: what extraction makes and every exporter, viewer and metric reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import export


@dataclass
class TriangleMesh:
    """A coloured triangle surface. All tensors are on the CPU.

    Attributes:
        vertices: `[N, 3]` float32, world units (one unit is exported as a metre), in the cameras' frame: **z up**; see `y_up`.
        faces: `[F, 3]` int64, counter-clockwise seen from outside.
        normals: `[N, 3]` float32 smooth unit normals.
        vertex_colors: `[N, 3]` float32 sRGB, 0..1.
        uvs: `[N, 2]` float32 in 0..1, v down as in glTF, or None for a mesh with vertex colours only. Vertices on a seam
            of the atlas occur once for each chart.
        texture: `[H, W, 3]` float32 sRGB, 0..1, first row at v = 0, or None.
        part: `[F]` int64, the part that each face belongs to, counting from 0; one part where `part_names` is empty.
        part_names: a name for each part; () for a mesh that is one whole.
        report: JSON-able facts of the extraction: threshold, pieces, watertight or the defects, timings.
    """

    vertices: Float[Tensor, "N 3"]
    faces: Int[Tensor, "F 3"]
    normals: Float[Tensor, "N 3"]
    vertex_colors: Float[Tensor, "N 3"]
    uvs: Float[Tensor, "N 2"] | None = None
    texture: Float[Tensor, "H W 3"] | None = None
    part: Int[Tensor, " F"] | None = None
    part_names: tuple[str, ...] = ()
    report: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.faces) == 0:
            raise ValueError("a mesh needs at least one face")
        if int(self.faces.min()) < 0 or int(self.faces.max()) >= len(self.vertices):
            raise ValueError(f"the mesh's faces name vertices outside 0..{len(self.vertices) - 1}")
        if not torch.isfinite(self.vertices).all():
            raise ValueError("the mesh's vertices hold NaN or infinite values")
        if (self.uvs is None) != (self.texture is None):
            raise ValueError("a textured mesh needs both uvs and a texture")
        if self.part is None:
            self.part = torch.zeros(len(self.faces), dtype=torch.int64)

    def y_up(self) -> TriangleMesh:
        """The same mesh in glTF's frame: (x, y, z) becomes (x, z, -y), so that +z (up) becomes +y and -y (front) +z."""
        return replace(self, vertices=z_up_to_y_up(self.vertices), normals=z_up_to_y_up(self.normals))

    def parts(self) -> list[tuple[str, TriangleMesh]]:
        """Each part's name and the part as a mesh of its own, its place kept; textured parts share the whole texture."""
        if not self.part_names:
            return [("mesh", self)]
        return [(name, self._part(index)) for index, name in enumerate(self.part_names)]

    def _part(self, index: int) -> TriangleMesh:
        faces = self.faces[self.part == index]
        used, inverse = torch.unique(faces, return_inverse=True)
        return TriangleMesh(
            vertices=self.vertices[used],
            faces=inverse,
            normals=self.normals[used],
            vertex_colors=self.vertex_colors[used],
            uvs=None if self.uvs is None else self.uvs[used],
            texture=self.texture,
            report=self.report,
        )

    def gltf_tensors(self) -> dict[str, Tensor]:
        """The mesh in glTF's conventions with a leading batch axis of one, named as in ComfyUI's MESH type.

        y up, `vertices [1,N,3]`, `faces [1,F,3]`, `normals [1,N,3]`, and either `uvs [1,N,2]` with `texture [1,T,T,3]` (sRGB)
        or `vertex_colors [1,N,3]`, which glTF wants **linear** and multiplies with a texture.
        """
        mesh = self.y_up()
        tensors = {"vertices": mesh.vertices, "faces": mesh.faces, "normals": mesh.normals}
        if mesh.texture is None:
            tensors["vertex_colors"] = srgb_to_linear(mesh.vertex_colors)
        else:
            tensors |= {"uvs": mesh.uvs, "texture": mesh.texture}
        return {name: tensor[None] for name, tensor in tensors.items()}

    def export(
        self, path: str | Path, *, overwrite: bool = False, extras: dict | None = None, print_mm: float = 0.0
    ) -> Path:
        """Write the mesh in the format that the suffix names; see `export.write_mesh`."""
        return export.write_mesh(self, Path(path), overwrite, extras or {}, print_mm)


def z_up_to_y_up(vectors: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Turn by -90 degrees around x: (x, y, z) becomes (x, z, -y)."""
    x, y, z = vectors.unbind(1)
    return torch.stack((x, z, -y), dim=1)


def srgb_to_linear(colors: Tensor) -> Tensor:
    """IEC 61966-2-1."""
    return torch.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
