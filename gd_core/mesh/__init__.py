"""Radiance field to textured mesh, and mesh to file."""

from .compare import ShapeScore, compare_meshes, compare_points, sample_surface
from .export import encode_mesh, write_together
from .extract import MeshConfig, extract_mesh
from .triangle_mesh import TriangleMesh

__all__ = [
    "MeshConfig",
    "ShapeScore",
    "TriangleMesh",
    "compare_meshes",
    "compare_points",
    "encode_mesh",
    "extract_mesh",
    "sample_surface",
    "write_together",
]
