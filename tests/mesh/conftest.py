import pytest

from gd_core.mesh import MeshConfig, TriangleMesh, extract_mesh
from tools.mesh_scenes import THREE_SOLIDS

SMALL = {"resolution": 64, "target_faces": 3000, "texture_size": 256}


@pytest.fixture(scope="session")
def textured_mesh() -> TriangleMesh:
    """Cube, sphere and cylinder apart from one another, with a texture."""
    return extract_mesh(THREE_SOLIDS, MeshConfig(**SMALL))


@pytest.fixture(scope="session")
def vertex_colored_mesh() -> TriangleMesh:
    return extract_mesh(THREE_SOLIDS, MeshConfig(**SMALL, color="vertex"))
