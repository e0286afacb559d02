"""The views' own pixels as texture: what they show that the albedo's planes are too coarse or too smooth to hold.

    albedo(x) = smooth(x) + sum_v w_v(x) P_v(pi_v(x)) / sum_v w_v(x),    w_v = visible_v(x) cos^q(normal, towards view v)

Blending the views by how well each sees a point is Debevec et al.'s ("Modeling and rendering architecture from photographs",
1996); here the weights hang on the surface alone and not on who looks, so that the colour stays the same from every side. A
texel is a pixel, whatever the views' size; what no view sees keeps the smooth albedo.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor, nn

from ..cameras import Cameras
from .hull import project

if TYPE_CHECKING:
    from .evidence import Evidence
    from .field import RadianceField

SHARPNESS = 4  # q: views that see a point askew count little where another sees it straight
FAINT = 0.01  # weights that sum to this much count half: what is seen at a grazing angle only is hardly painted
NEAR_PIXELS, NEAR = 1.5, 0.02  # what lies less than so many pixels and world units behind what a view sees first is seen
STEEP = 5.0  # tangent beyond which a surface's slope no longer widens that
PASSES = 3  # the first paints what is missing, the others what blending and a soft surface have left out of it
RAYS_PER_CHUNK = 4096
SOLID = 0.5  # opacity and mask from which on a pixel shows the surface
DARKEST = 0.2  # of light: what is missing in deeper shade than this is noise
BACKFACING = 0.05  # cosine up to which a view sees nothing of a surface


class ViewPaint(nn.Module):
    """V pictures of what is missing in the albedo, as their views see it.

    Buffers: `missing` `[V, 3, H, W]`, 0 where a view says nothing; `depth` `[V, 1, H, W]`, world units along the view axis, of
    what is seen first, 0 where a view is no witness; `c2w`, `fov_y_deg`, `ortho_height` of the views' cameras.
    """

    missing: Float[Tensor, "V 3 H W"]
    depth: Float[Tensor, "V 1 H W"]
    c2w: Float[Tensor, "V 4 4"]
    fov_y_deg: Float[Tensor, " V"]
    ortho_height: Float[Tensor, " V"]

    def __init__(self, views: int, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("missing", torch.zeros(views, 3, height, width))
        self.register_buffer("depth", torch.zeros(views, 1, height, width))
        self.register_buffer("c2w", torch.eye(4).repeat(views, 1, 1))
        self.register_buffer("fov_y_deg", torch.ones(views))
        self.register_buffer("ortho_height", torch.zeros(views))

    @property
    def cameras(self) -> Cameras:
        return Cameras(self.c2w, self.fov_y_deg, self.ortho_height)

    def see(self, depth: Float[Tensor, "V H W"], witness: Bool[Tensor, "V H W"], cameras: Cameras) -> None:
        """Set from where the views look, and what they see: `depth` along the view axis where `witness` is true."""
        self.c2w.copy_(cameras.c2w)
        self.fov_y_deg.copy_(cameras.fov_y_deg)
        self.ortho_height.copy_(cameras.ortho_height)
        far = torch.where(witness, depth, torch.inf)
        nearest = -nn.functional.max_pool2d(-far[:, None], 3, stride=1, padding=1)  # across an outline, what is in front
        self.depth.copy_(torch.where(nearest.isfinite(), nearest, 0.0))

    def paint(self, missing: Float[Tensor, "V H W 3"], witness: Bool[Tensor, "V H W"]) -> None:
        """Set the pictures; pixels that are no witness take the nearest one's, so that outlines blend with nothing else."""
        for view, seen in enumerate(witness.cpu().numpy()):
            if not seen.any():
                continue
            row, column = ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
            row, column = (torch.from_numpy(i).to(missing.device) for i in (row, column))
            self.missing[view] = missing[view][row, column].permute(2, 0, 1)

    def weights(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, "V N"], Float[Tensor, "V N 3"]]:
        """How much each view tells of each point, in sum at most 1, and what it says is missing there."""
        cameras = self.cameras
        height, width = self.depth.shape[-2:]
        column, row, depth = project(cameras, points, height, width)
        where = torch.stack((column * (2 / width) - 1, row * (2 / height) - 1), -1)[:, None]
        inside = (where.abs() < 1).all(-1)[:, 0]
        pictures = torch.cat((self.missing, self.depth), 1)
        shown = nn.functional.grid_sample(pictures, where, align_corners=False, padding_mode="border")[:, :, 0]
        towards = nn.functional.normalize(cameras.positions[:, None] - points, dim=-1)
        towards = torch.where(self.ortho_height[:, None, None] > 0, self.c2w[:, None, :3, 2], towards)
        facing = (towards * normals).sum(-1).clamp(min=0)
        known = facing.detach()  # of a tolerance, to which nothing is to be fitted; and at 1 the root has no slope
        slope = ((1 - known * known).clamp(min=0).sqrt() / known.clamp(min=1e-3)).clamp(max=STEEP)
        pixel = cameras.frame_height[:, None] / height
        behind = (depth - shown[:, 3]) / (NEAR + NEAR_PIXELS * pixel * (1 + slope))
        visible = ((2 - behind) * inside * (shown[:, 3] > 0)).clamp(0, 1)
        weights = visible * ((facing - BACKFACING).clamp(min=0)) ** SHARPNESS
        return weights / (weights.sum(0) + FAINT), shown[:, :3].transpose(1, 2)

    def forward(self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """What to add to the albedo."""
        weights, missing = self.weights(points, normals)
        return (weights[:, :, None] * missing).sum(0)


@torch.no_grad()
def paint_field(field: RadianceField, evidence: Evidence, tick: Callable[[], None]) -> None:
    """Give `field` the views' own pixels, in place; the shape and all else stays as it is. `tick` may raise to cancel."""
    field.paint = None
    paint = ViewPaint(*evidence.size).to(field.device)
    pixels = len(paint.missing), *paint.missing.shape[2:]

    def picture(values: Tensor) -> Tensor:
        """`[R, *C]` of the rays as `[V, H, W, *C]`; 0 where no ray is."""
        flat = values.new_zeros(pixels[0] * pixels[1] * pixels[2], *values.shape[1:])
        return flat.index_copy(0, evidence.pixel, values).view(*pixels, *values.shape[1:])

    view = evidence.pixel // (pixels[1] * pixels[2])
    axis = -evidence.cameras.c2w[:, :3, 2].index_select(0, view)
    missing = torch.zeros_like(evidence.color)
    with field.shape.kept():
        for turn in range(PASSES):
            alpha, depth, error, share = [], [], [], []
            for chunk in torch.arange(len(evidence), device=field.device).split(RAYS_PER_CHUNK):
                tick()
                origins, directions = evidence.origins[chunk], evidence.directions[chunk]
                out = field.render_rays(origins, directions, 0.0, span=(evidence.near[chunk], evidence.far[chunk]))
                normals = nn.functional.normalize(out.normal, dim=-1)
                light = field.light(normals, -(normals * directions).sum(-1)).clamp(min=DARKEST)
                error.append((evidence.color[chunk] - out.rgb) / light)
                alpha.append(out.alpha)
                depth.append(out.depth * (directions * axis[chunk]).sum(-1))
                if turn:
                    surface = origins + out.depth[:, None] * directions
                    weights = paint.weights(surface, normals)[0]
                    share.append(weights.gather(0, view[chunk][None])[0, :, None])
            if turn == 0:
                solid = (torch.cat(alpha) > SOLID) & (evidence.mask > SOLID) & (evidence.weight == 1)
                witness = picture(solid)
                paint.see(picture(torch.cat(depth)), witness, evidence.cameras)
                field.paint = paint
            missing += torch.cat(error) * (torch.cat(share) if turn else 1.0)
            paint.paint(picture(missing), witness)
