"""`RadianceField`: density and colour of every point of a box, and how rays see them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..cameras import Cameras
from ..devices import resolve_device
from ..files import read_tensors, write_tensors
from ..recipe import Recipe
from ..settings.fit import EncodingConfig, ShapeConfig
from ..settings.fit import FieldConfig as FieldConfig
from .compositing import RaySamples, render_weights
from .encodings import make_encoding
from .labels import LabelGrid, nearest_label
from .lighting import Lighting
from .occupancy import OccupancyGrid
from .paint import ViewPaint
from .shape import SignedDistanceGrid

FORMAT = "grounded-dreamer-field"
FORMAT_VERSION = 4
LAMPLESS_VERSION = 3  # had no lamp at the camera
UNLIT_VERSION = 2  # had no lighting, and is read as one that is lit from all around; 1 had its density from the encoding
NEGLIGIBLE = 1e-3  # weight of a sample whose colour nobody would see


@dataclass
class RayOutput:
    """What R rays see.

    Attributes:
        rgb: `[R, 3]` colour over the background, from 0; above 1 where more light falls than a picture can hold.
        alpha: `[R]` opacity, 0..1.
        depth: `[R]` mean distance from the origin over what the ray hits, world units; 0 where it hits nothing.
        samples, weights: the packed samples and their compositing weights `[N]`.
        seen, seen_normals: indices `[M]` of the samples whose weight is not negligible, and their outward normals `[M, 3]`.
    """

    rgb: Float[Tensor, "R 3"]
    alpha: Float[Tensor, " R"]
    depth: Float[Tensor, " R"]
    samples: RaySamples
    weights: Float[Tensor, " N"]
    seen: Int[Tensor, " M"]
    seen_normals: Float[Tensor, "M 3"]

    @property
    def normal(self) -> Float[Tensor, "R 3"]:
        """Composited outward normals in world space, length at most 1."""
        return self.samples.take(self.seen).sum(self.weights[self.seen, None] * self.seen_normals)


@dataclass
class RenderedViews:
    """V rendered views: `rgb [V, H, W, 3]` 0..1, `alpha`, `depth` `[V, H, W]`, `normal [V, H, W, 3]`; see `RayOutput`."""

    rgb: Float[Tensor, "V H W 3"]
    alpha: Float[Tensor, "V H W"]
    depth: Float[Tensor, "V H W"]
    normal: Float[Tensor, "V H W 3"]


class RadianceField(nn.Module):
    """A density (1 / world unit) and a colour at every point of a box.

    The colour is an albedo under a light that the field holds as well, part of which may come from where one looks.

    Training needs nothing from here but `parameters()`, `render_rays` and, now and then, `update_occupancy`. The optimiser
    belongs to whoever trains.

    Attributes:
        config: its shape. provenance: JSON-able record of how it was made, saved with it. recipe: that of its views.
    """

    def __init__(self, config: FieldConfig | None = None, device: torch.device | str = "cpu", seed: int = 0) -> None:
        super().__init__()
        self.config = config = config or FieldConfig()
        self.provenance: dict = {}
        self.recipe = Recipe()
        device = torch.device(device)
        generator = torch.Generator().manual_seed(seed)
        self.encoding = make_encoding(config.encoding, device, generator)
        self.mlp = nn.Sequential(
            _linear(self.encoding.features, config.hidden, generator), nn.ReLU(), _linear(config.hidden, 3, generator)
        )
        self.shape = SignedDistanceGrid(config.shape, config.half_size)
        self.light = Lighting()
        self.paint: ViewPaint | None = None
        self.occupancy = OccupancyGrid(config.occupancy_resolution, config.half_size)
        self.label_grid = LabelGrid(half_size=config.half_size)
        self.to(device)

    @property
    def device(self) -> torch.device:
        return self.mlp[0].weight.device

    def copy_to(self, device: torch.device) -> RadianceField:
        """A field of its own on `device`, with the encoding that serves there."""
        made = RadianceField(self.config, device)
        made.label_grid = LabelGrid(self.label_names, self.config.half_size).to(device)
        made.load_tensors(self.state_dict())
        made.provenance, made.recipe = copy.deepcopy(self.provenance), self.recipe
        return made

    def raw_density(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Density whatever the occupancy grid says of the points."""
        return self.shape.density(self.shape(points))

    def density(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Density as rays see it, 1 / world unit: zero outside the box and in cells that the occupancy grid holds empty."""
        return self.raw_density(points) * self.occupancy.lookup(points)

    def albedo(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """RGB in 0..1, before light and shade, without the views' own pixels."""
        unit = (points / (2 * self.config.half_size) + 0.5).clamp(0, 1)
        return torch.sigmoid(self.mlp(self.encoding(unit)))

    def color(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """RGB in 0..1, the same from every side: the albedo in the light that falls on the surface there, of which the lamp's
        is as it is on average."""
        normals = self.shape.normals(points)
        return (self._painted(points, normals) * self.light(normals)).clamp(0, 1)

    def _painted(self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """The albedo with the views' own pixels on it."""
        albedo = self.albedo(points)
        return albedo if self.paint is None else (albedo + self.paint(points, normals)).clamp(min=0)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The subjects that parts of the field are labelled with, in the prompt's order; () for a field without labels."""
        return self.label_grid.names

    def label_shares(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N S"]:
        """How much each point is each subject's, 0..1; all 0 where nothing is known."""
        return self.label_grid.at(points)

    def labels(self, points: Float[Tensor, "N 3"]) -> Int[Tensor, " N"]:
        """Index into `label_names` of the subject that each point belongs to, -1 where nothing is known."""
        return nearest_label(self.label_shares(points))

    def render_rays(
        self,
        origins: Float[Tensor, "R 3"],
        directions: Float[Tensor, "R 3"],
        background: Float[Tensor, "*#R 3"] | float = 1.0,
        generator: torch.Generator | None = None,
        span: tuple[Float[Tensor, " R"], Float[Tensor, " R"]] | None = None,
    ) -> RayOutput:
        """Render rays, differentiable in the parameters.

        Args:
            origins, directions: `[R, 3]` world units, directions of length one.
            background: RGB 0..1, one for all `[3]` or one for each ray `[R, 3]`.
            generator: CPU generator that places samples at random in their strata; None: in the middle.
            span: see `OccupancyGrid.march`.
        """
        samples = self.occupancy.march(origins, directions, self.config.step, generator, span)
        return self.render_samples(origins, directions, samples, background)

    def render_samples(
        self,
        origins: Float[Tensor, "R 3"],
        directions: Float[Tensor, "R 3"],
        samples: RaySamples,
        background: Float[Tensor, "*#R 3"] | float = 1.0,
    ) -> RayOutput:
        """`render_rays` with the samples given."""
        along = directions.index_select(0, samples.ray)
        points = torch.addcmul(origins.index_select(0, samples.ray), along, samples.t[:, None])
        weights = render_weights(samples, self.raw_density(points))
        alpha = samples.sum(weights)
        depth = samples.sum(weights * samples.t) / alpha.clamp(min=1e-4)
        seen = (weights.detach() > NEGLIGIBLE).nonzero()[:, 0]
        points = points.index_select(0, seen)
        normals = self.shape.normals(points)
        facing = -(normals * along.index_select(0, seen)).sum(-1)
        color = self._painted(points, normals) * self.light(normals, facing) + self.light.highlight(facing)
        rgb = samples.take(seen).sum(color * weights.index_select(0, seen)[:, None])
        return RayOutput(rgb + (1 - alpha[:, None]) * background, alpha, depth, samples, weights, seen, normals)

    @torch.no_grad()
    def render(
        self,
        cameras: Cameras,
        height: int,
        width: int,
        background: float | Float[Tensor, " 3"] = 1.0,
        rays_per_chunk: int = 8192,
        check: Callable[[], None] = lambda: None,
    ) -> RenderedViews:
        """Render whole views without gradients, on the field's device; `rays_per_chunk` bounds the memory, whatever the size.

        Args:
            cameras: any number, anywhere. height, width: pixels. background: RGB 0..1.
            check: called before each chunk; may raise to cancel.
        """
        cameras = cameras.to(self.device)
        shape = (len(cameras), height, width)
        rgb, normal = torch.empty(2, *shape, 3, device=self.device)
        alpha, depth = torch.empty(2, *shape, device=self.device)
        with self.shape.kept():
            for view in range(len(cameras)):
                origins, directions = (r.reshape(-1, 3) for r in cameras[view].rays(height, width))
                for first in range(0, height * width, rays_per_chunk):
                    check()
                    chunk = slice(first, first + rays_per_chunk)
                    out = self.render_rays(origins[chunk], directions[chunk], background)
                    rgb[view].view(-1, 3)[chunk] = out.rgb.clamp(0, 1)
                    alpha[view].view(-1)[chunk] = out.alpha.clamp(0, 1)
                    depth[view].view(-1)[chunk] = out.depth
                    normal[view].view(-1, 3)[chunk] = out.normal
        return RenderedViews(rgb, alpha, depth, normal)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While it is open the shape's grids are not summed anew: for many questions without gradients to a field at rest."""
        with torch.no_grad(), self.shape.kept():
            yield

    def update_occupancy(self, generator: torch.Generator, min_alpha: float = 0.01, decay: float = 0.95) -> None:
        """Re-measure the density of every hull cell; a cell stays occupied if one stratum of it has opacity `min_alpha`."""
        self.occupancy.update(self.raw_density, min_alpha / self.config.step, generator, decay)

    def add_detail(self, config: FieldConfig) -> None:
        """Become the field that `config` describes, by a shell around the surface, and cells and strata as fine as it asks for.

        What is seen does not change. Makes new parameters.
        """
        self.shape.add_shell(config.shape.detail, self.occupancy.hull)
        self.occupancy = self.occupancy.resized(config.occupancy_resolution)
        self.config = replace(config, encoding=self.config.encoding)

    def resize_encoding(self, resolution: int) -> None:
        """Resample VM planes to another resolution (a hash grid holds all of them at once). Makes new parameters."""
        if self.config.encoding.kind == "vm" and resolution != self.encoding.resolution:
            self.encoding.resize(resolution)
            self.config = replace(self.config, encoding=replace(self.config.encoding, resolution=resolution))

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """`load_state_dict`, making the shell and the paint that `tensors` hold values of."""
        if "paint.missing" in tensors:
            views, _, height, width = tensors["paint.missing"].shape
            self.paint = ViewPaint(views, height, width).to(self.device)
        if "shape.shell.cells" in tensors:
            self.shape.set_shell(self.config.shape.detail, tensors["shape.shell.cells"].to(self.device))
        self.load_state_dict(tensors)

    def save(self, path: str | Path) -> None:
        """Write the field to one safetensors file; an existing file is replaced only once the new one is whole.

        Raises:
            OSError: the folder does not exist, cannot be written to, or is full.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"cannot save the field to {path}: there is no folder {path.parent}")
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "config": asdict(self.config),
            "provenance": self.provenance,
            "labels": list(self.label_names),
            "recipe": json.loads(self.recipe.to_json()),
        }
        write_tensors(path, self.state_dict(), header)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """`nn.Linear` with torch's own initialisation, drawn from `generator` instead of the global one."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    bound = inputs**-0.5
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def load_field(path: str | Path, device: torch.device | str = "auto") -> RadianceField:
    """Read what `RadianceField.save` wrote, on whatever device, to `device` (see `devices.resolve_device`).

    Raises:
        ValueError: the file is not one of ours; the message names it.
    """
    tensors, header = read_tensors(path, FORMAT, "a NeRF field saved by Grounded-Dreamer", newest=FORMAT_VERSION)
    if header["version"] in (UNLIT_VERSION, LAMPLESS_VERSION):
        tensors = {f"light.{name}": value for name, value in Lighting().state_dict().items()} | tensors
    elif header["version"] != FORMAT_VERSION:
        raise ValueError(f"{path} has field format {header['version']}, this release reads {FORMAT_VERSION}: fit it again")
    config = dict(header["config"])
    shape = config["shape"]
    config["shape"] = ShapeConfig(**shape | {"resolutions": tuple(shape["resolutions"])})
    config["encoding"] = EncodingConfig(**config["encoding"])
    loaded = RadianceField(FieldConfig(**config), resolve_device(device))
    loaded.label_grid = LabelGrid(tuple(header.get("labels", ())), config["half_size"]).to(loaded.device)
    tensors.setdefault("label_grid.shares", loaded.label_grid.shares)  # older files have no labels
    loaded.load_tensors(tensors)
    loaded.provenance = header["provenance"]
    loaded.recipe = Recipe.from_json(header.get("recipe", {}), where=f"the recipe in {path}")  # older files have none
    return loaded
