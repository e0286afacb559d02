"""The first call of an optional backend, in a process of its own: `first_call_process.py PACKAGE DEVICE PATH...`.

Compiled code that was built for another torch, driver or card does not always raise: it can end the process, or never come
back, and a server would go down with all that is open in it. So somebody else makes the call first: forward and backward, as a
fit does. Exit code 0: it went well. Otherwise the last line that is printed says why not, if there was time to say it.
`PATH...` is the caller's `sys.path`, so that the same package is found.
"""

from __future__ import annotations

import sys

package, device, sys.path[:] = sys.argv[1], sys.argv[2], sys.argv[3:]

import importlib  # noqa: E402
import importlib.util  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402


def call_nerfacc() -> None:
    """The weight of one sample of density 1 and length 1, and its slope: both known."""
    if not nerfacc_is_built():
        raise ImportError("it came without its compiled part")
    nerfacc = importlib.import_module("nerfacc")
    start, end = torch.zeros(1, device=device), torch.ones(1, device=device)
    density = torch.ones(1, device=device, requires_grad=True)
    rays = torch.zeros(1, dtype=torch.long, device=device)
    weights = nerfacc.render_weight_from_density(start, end, density, ray_indices=rays, n_rays=1)[0]
    weights.sum().backward()
    expect("the weight of a sample", float(weights[0]), 1 - math.exp(-1))
    expect("the slope of a weight", float(density.grad[0]), math.exp(-1))


def nerfacc_is_built() -> bool:
    """Whether its compiled part is in its folder, or in torch's own from an earlier compilation on first use.

    The answer must come before the first call, which would compile. Raises ImportError for one built for another torch.
    """
    if importlib.util.find_spec("nerfacc.csrc") is not None:
        importlib.import_module("nerfacc.csrc")
        return True
    # Not at the top: it needs setuptools, which not every environment has.
    from torch.utils.cpp_extension import get_default_build_root  # noqa: PLC0415

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    libraries = (path for ending in ("so", "pyd") for path in root.glob(f"**/nerfacc_cuda/nerfacc_cuda*.{ending}"))
    return any(libraries) and importlib.import_module("nerfacc.cuda._backend")._C is not None


def call_tinycudann() -> None:
    """A hash grid, whose features at a point are those of the corners around it: their sum has slopes that sum to the number of
    points times that of features, whatever is in the grid."""
    tinycudann = importlib.import_module("tinycudann")
    grid = tinycudann.Encoding(3, {"otype": "HashGrid", "n_levels": 4}, seed=1, dtype=torch.float32).to(device)
    features = grid(torch.full((256, 3), 0.3, device=device))
    features.sum().backward()
    expect("the slopes of the hash grid, in sum,", float(grid.params.grad.sum()), features.numel())


def expect(what: str, found: float, right: float) -> None:
    if not math.isclose(found, right, rel_tol=0.05):
        raise ArithmeticError(f"{what} is {found:g} where it must be {right:g}")


try:
    {"nerfacc": call_nerfacc, "tinycudann": call_tinycudann}[package]()
except Exception as error:  # compiled code fails in ways of its own, and none of them is worth a run
    print(" ".join(str(error).split())[:200] or type(error).__name__)
    sys.exit(1)
