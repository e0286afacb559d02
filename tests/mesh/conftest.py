from types import SimpleNamespace

import pytest
import torch

from gd_core.mesh import MeshConfig, TriangleMesh, extract_mesh
from tools.mesh_scenes import THREE_SOLIDS, Solid, SolidScene

TOUCHING = (Solid("cube", (-0.3, 0.0, 0.0), 0.3, (0.9, 0.1, 0.1)), Solid("sphere", (0.28, 0.0, 0.0), 0.33, (0.1, 0.2, 0.9)))
SMALL = {"resolution": 64, "target_faces": 3000, "texture_size": 256}


@pytest.fixture(scope="session")
def textured_mesh() -> TriangleMesh:
    """Cube, sphere and cylinder apart from one another, with a texture, each a part."""
    return extract_mesh(THREE_SOLIDS, MeshConfig(**SMALL, parts="pieces"))


@pytest.fixture(scope="session")
def vertex_colored_mesh() -> TriangleMesh:
    return extract_mesh(THREE_SOLIDS, MeshConfig(**SMALL, color="vertex", parts="pieces"))


class LabelledScene(SolidScene):
    """Solids whose labels are known: each point belongs to the nearer solid."""

    label_names = ("red cube", "blue sphere")
    label_grid = SimpleNamespace(shares=torch.ones(2))

    def label_shares(self, points):
        distance = torch.stack([solid.distance(points) for solid in self.solids], dim=1)
        return torch.softmax(-20 * distance, dim=1)


@pytest.fixture(scope="session")
def mesh_of_words() -> TriangleMesh:
    """A cube and a sphere that overlap, cut into a part for each."""
    return extract_mesh(LabelledScene(TOUCHING), MeshConfig(resolution=48, target_faces=2000, texture_size=256, parts="words"))
