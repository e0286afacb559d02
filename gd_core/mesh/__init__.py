"""Radiance field to textured mesh, and mesh to file."""

import lazy_loader

# Resolved when first used: trimesh brings networkx along, which takes a second to import.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "compare": ["ShapeScore", "compare_meshes", "compare_points", "sample_surface"],
        "export": ["encode_mesh", "write_together"],
        "extract": ["MeshConfig", "extract_mesh"],
        "load": ["from_gltf_tensors", "load_mesh"],
        "project": ["project_views"],
        "triangle_mesh": ["TriangleMesh"],
    },
)
