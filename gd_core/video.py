"""A field seen from all around, as frames and as an MP4."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import torch
from jaxtyping import Float
from torch import Tensor

from .cameras import Cameras, orbit_cameras
from .files import whole_file
from .nerf import RadianceField
from .views import Progress, ViewSet

FRAMES_PER_SECOND = 12
MOST_FRAMES, LEAST_SIZE, LARGEST_SIZE = 1000, 16, 4096


def refuse_frames(frames: int, size: int, *, video: bool = True) -> None:
    """ValueError for a turn that cannot be rendered, or not be written as a video."""
    if not 1 <= frames <= MOST_FRAMES:
        raise ValueError(f"a turntable has 1 to {MOST_FRAMES} frames, got {frames}")
    if not LEAST_SIZE <= size <= LARGEST_SIZE:
        raise ValueError(f"a frame has {LEAST_SIZE} to {LARGEST_SIZE} pixels a side, got {size}")
    if video and size % 2:
        raise ValueError(f"a video's frames need an even number of pixels a side, got {size}: choose {size - 1} or {size + 1}")


def turntable_cameras(views: ViewSet, frames: int) -> Cameras:
    """One turn at the elevation, distance and field of view of `views`."""
    positions = views.cameras.positions.double()
    distance = positions.norm(dim=1)
    return orbit_cameras(
        frames,
        float(torch.rad2deg(torch.asin(positions[:, 2] / distance)).mean()),
        distance=float(distance.mean()),
        fov_y_deg=float(views.cameras.fov_y_deg.mean()),
    )


def render_orbit(
    field: RadianceField, cameras: Cameras, size: int, progress: Progress | None = None
) -> Float[Tensor, "V size size 3"]:
    """RGB 0..1 before white, camera by camera."""
    images = []
    for index in range(len(cameras)):
        images.append(field.render(cameras[index], size, size).rgb.cpu())
        if progress is not None:
            progress(index + 1, len(cameras), images[-1][0])
    return torch.cat(images)


def write_mp4(frames: Float[Tensor, "n H W 3"], path: str | Path) -> None:
    """Write frames (RGB 0..1, even height and width) as H.264 at 12 a second; `path` appears once the file is whole."""
    pixels = (frames.clamp(0, 1) * 255).round().byte().cpu().numpy()
    with whole_file(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        # One thread: the same frames give the same bytes.
        stream = container.add_stream("libx264", Fraction(FRAMES_PER_SECOND), options={"crf": "18", "threads": "1"})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
