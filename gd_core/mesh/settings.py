"""What nodes and command line say of meshes before anything heavy is imported."""

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")  # that can be read
MIN_AGREEMENT = 0.7  # IoU of silhouettes: below it views show something else than the mesh
