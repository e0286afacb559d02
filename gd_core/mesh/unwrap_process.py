"""Unwraps one mesh in a process of its own: `unwrap_process.py FOLDER PATH...` makes `FOLDER/atlas.npz` of `FOLDER/mesh.npz`.

xatlas works for seconds, with many faces for minutes, and keeps Python's lock all the while. In the caller's process nothing
else could run: a server would answer nobody, and would not even hear that it is to stop. A process can be ended at
any time, and a crash of xatlas (it has some, with perfect spheres for one) does not take the caller along.
`PATH...` is the caller's `sys.path`, so that the same xatlas is found.
"""

import sys

folder, sys.path[:] = sys.argv[1], sys.argv[2:]

import numpy as np  # noqa: E402
import xatlas  # noqa: E402

with np.load(f"{folder}/mesh.npz") as mesh:
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh["vertices"], mesh["faces"], mesh["normals"])
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = int(mesh["resolution"]), int(mesh["padding"]), True
atlas.generate(xatlas.ChartOptions(), pack)
source, faces, uvs = atlas.get_mesh(0)
np.savez(f"{folder}/atlas.npz", source=source, faces=faces, uvs=uvs)
