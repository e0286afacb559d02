from types import SimpleNamespace

from . import io as io


class ComfyExtension:
    async def on_load(self):
        pass


class MESH:
    def __init__(self, vertices, faces, uvs=None, vertex_colors=None, texture=None, normals=None):
        self.vertices, self.faces, self.uvs, self.vertex_colors = vertices, faces, uvs, vertex_colors
        self.texture, self.normals = texture, normals


class File3D:
    def __init__(self, source, file_format=""):
        self.source, self.format = source, file_format

    def get_source(self):
        return self.source


Types = SimpleNamespace(MESH=MESH, File3D=File3D)
__all__ = ["ComfyExtension", "Types", "io"]
