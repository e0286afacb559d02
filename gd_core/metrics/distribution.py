"""FID and KID between two sets of images, computed by torchmetrics on features that the user supplies.

Nothing is downloaded. The usual numbers need the Inception v3 weights of the original FID (`inception_features`); any other
feature network gives a number that compares only with numbers of the same network, and reports name it.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

try:
    from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
    from torchmetrics.image.kid import KernelInceptionDistance
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("FID and KID are computed by torchmetrics: pip install torchmetrics") from error

Features = Callable[[Float[Tensor, "N 3 H W"]], Float[Tensor, "N F"]]
"""Feature network: RGB images in 0..1 to feature vectors."""


class _FeatureModule(nn.Module):
    """A `Features` callable in the form that torchmetrics takes: a module that knows its own width."""

    def __init__(self, features: Features, num_features: int) -> None:
        super().__init__()
        self.features, self.num_features = features, num_features

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).flatten(1).float()


def _measured(metric_class, generated: Tensor, reference: Tensor, features: Features, batch_size: int, **options):
    if len(generated) < 2 or len(reference) < 2:
        counts = f"{len(generated)} and {len(reference)}"
        raise ValueError(f"FID and KID compare distributions: give at least 2 images on both sides, got {counts}")
    with torch.no_grad():
        width = features(generated[:1].movedim(-1, 1)).flatten(1).shape[1]
    metric = metric_class(feature=_FeatureModule(features, width), normalize=True, **options)
    for images, real in ((reference, True), (generated, False)):
        for chunk in images.split(batch_size):
            metric.update(chunk.movedim(-1, 1), real=real)
    return metric.compute()


def fid(
    generated: Float[Tensor, "N H W 3"], reference: Float[Tensor, "M h w 3"], features: Features, batch_size: int = 32
) -> float:
    """Frechet Inception Distance (Heusel et al. 2017): `|mu1 - mu2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2))` of the two sets' features.

    Biased upwards by small sets: the covariance needs more images than features to be of full rank (2048 for Inception).

    Args:
        generated, reference: RGB images in 0..1.

    Raises:
        ValueError: fewer than two images on a side.
    """
    return float(_measured(FrechetInceptionDistance, generated, reference, features, batch_size))


def kid(
    generated: Float[Tensor, "N H W 3"],
    reference: Float[Tensor, "M h w 3"],
    features: Features,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    batch_size: int = 32,
    seed: int = 0,
) -> tuple[float, float]:
    """Kernel Inception Distance (Binkowski et al. 2018): mean and standard deviation, over random subsets, of the unbiased
    squared MMD under the kernel `(x.y / F + 1)^3`. Fit for small sets, and may be a little below 0.

    Args:
        subset_size: images of each side in a subset; never more than the smaller side has.
        seed: of the subsets.
    """
    size = min(subset_size, len(generated), len(reference))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)  # torchmetrics draws its subsets from the global generator
        warnings.filterwarnings("ignore", message=".*save all extracted features in buffer")
        mean, deviation = _measured(
            KernelInceptionDistance, generated, reference, features, batch_size, subsets=subsets, subset_size=size
        )
    return float(mean), float(deviation)


def inception_features(weights: str | Path) -> Features:
    """The original FID's Inception v3 pool features `[N, 2048]` from a local `pt_inception-2015-12-05-6726825d.pth`
    (toshas/torch-fidelity's conversion of the TensorFlow weights). Needs the `torch-fidelity` package.

    Raises:
        ValueError: no such file.
        ModuleNotFoundError: torch-fidelity, which has the network, is not installed.
    """
    if not Path(weights).is_file():
        raise ValueError(
            f"no Inception weights at '{weights}': give pt_inception-2015-12-05-6726825d.pth from torch-fidelity's releases"
        )
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ModuleNotFoundError("FID's Inception network comes from torch-fidelity: pip install torch-fidelity")
    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights)).eval()
    return lambda images: network((images.clamp(0, 1) * 255).byte())
