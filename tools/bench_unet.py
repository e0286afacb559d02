"""Benchmark of the UNet at real size with random weights: one denoising step with guidance, 4 views, on one core.

    python -m tools.bench_unet                           # contiguous, text kept over the steps, channels_last
    python -m tools.bench_unet --compile                 # and torch.compile
    python -m tools.bench_unet --port PATH               # and the diffusers port's own UNet (ashawkey/mvdream_diffusers)
    python -m tools.bench_unet --width 64                # a quick look at a fifth of the width

Every variant has the same weights and is timed in turns in one process, a matrix product before each, in CPU seconds, so that
other load on the machine falls on all alike; the least of the rounds counts. PATH is the folder of the port's `mv_unet.py`,
which needs einops, kiui and xformers to be importable (an `xformers.ops.memory_efficient_attention` that calls PyTorch's own
serves on a CPU). Needs about 6 GB of memory at real size, 8 with all variants.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gd_core.cameras import orbit_cameras
from gd_core.diffusion import load_unet, predict_noise
from gd_core.diffusion.multiview import text_kept
from gd_core.diffusion.unet_keys import infer_original_config

SGEMM_SIZE = 2048
TOKENS = 77


class Inputs:
    """What one step reads: `[uncond x V, cond x V]`, one timestep, MVDream's four cameras."""

    def __init__(self, views: int, latent: int, context_dim: int):
        generator = torch.Generator().manual_seed(0)
        images = 2 * views
        self.views = views
        self.latents = torch.randn(images, 4, latent, latent, generator=generator)
        self.timesteps = torch.full((images,), 501)
        self.context = torch.randn(2, TOKENS, context_dim, generator=generator).repeat_interleave(views, dim=0)
        self.cameras = orbit_cameras(views).conditioning().repeat(2, 1)

    def predict(self, unet: UNet2DConditionModel) -> Tensor:
        return predict_noise(unet, self.latents, self.timesteps, self.context, self.cameras, self.views)


def scaled_weights(shapes: dict[str, list[int]], width: int) -> dict[str, Tensor]:
    """Random weights for the published names and shapes, with `width` channels in place of 320."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        # Every width of the UNet is a multiple of 320; kernel sizes, latents, cameras and the text's width are not.
        shape = [size * width // 320 if size % 320 == 0 else size for size in shape]
        weights[name] = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]) if len(shape) > 1 else 1e2)
    return weights


def flops_of_a_step(weights: dict[str, Tensor], inputs: Inputs) -> int:
    """Floating-point operations of one step, counted without running it."""
    unet = load_unet({name: tensor.to("meta") for name, tensor in weights.items()})
    with FlopCounterMode(display=False) as counter, torch.device("meta"), torch.no_grad():
        predict_noise(
            unet, inputs.latents.to("meta"), inputs.timesteps.to("meta"), inputs.context.to("meta"), inputs.cameras.to("meta"),
            inputs.views,
        )  # fmt: skip
    return counter.get_total_flops()


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def sgemm_gflops() -> float:
    a, b = torch.randn(2, SGEMM_SIZE, SGEMM_SIZE)
    return 2e-9 * SGEMM_SIZE**3 / cpu_seconds(lambda: a @ b)


def variants(weights: dict[str, Tensor], inputs: Inputs, args: argparse.Namespace, stack: ExitStack) -> dict[str, Callable]:
    """Name -> a function that runs one step. UNets share the weights' memory, but for the copies that channels_last makes."""
    steps: dict[str, Callable] = {}
    if args.port:
        steps["port"] = port_step(weights, inputs, args.port)
    plain, kept = load_unet(weights), load_unet(weights)
    stack.enter_context(text_kept(kept, inputs.context))
    steps["contiguous"] = lambda: inputs.predict(plain)
    steps["text kept"] = lambda: inputs.predict(kept)
    channels_last = load_unet(weights).to(memory_format=torch.channels_last)
    stack.enter_context(text_kept(channels_last, inputs.context))
    steps["text kept, channels_last"] = lambda: inputs.predict(channels_last)
    if args.compile:
        compiled = load_unet(weights)
        compiled.compile()
        steps["compiled"] = lambda: inputs.predict(compiled)
    return steps


def port_step(weights: dict[str, Tensor], inputs: Inputs, folder: Path) -> Callable:
    sys.path.insert(0, str(folder))
    from mv_unet import MultiViewUNetModel  # noqa: PLC0415

    config = infer_original_config(weights, None, "the benchmark")
    config = {k: v for k, v in config.items() if k != "use_linear_in_transformer"} | {"image_size": inputs.latents.shape[-1]}
    with torch.device("meta"):
        unet = MultiViewUNetModel(**config)
    unet.load_state_dict(weights, strict=True, assign=True)
    unet.eval()
    return lambda: unet(inputs.latents, inputs.timesteps, inputs.context, camera=inputs.cameras, num_frames=inputs.views)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=320, help="channels of the first level; MVDream has 320")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--latent", type=int, default=32, help="latent cells a side; 32 is MVDream's 256 pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also torch.compile (minutes of compilation)")
    parser.add_argument("--port", type=Path, help="folder of the diffusers port's mv_unet.py")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    keys = Path(__file__).parents[1] / "tests" / "data" / "unet_keys" / "sd21_unet_keys.json"
    weights = scaled_weights(json.loads(keys.read_text()), args.width)
    inputs = Inputs(args.views, args.latent, weights["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1])
    flops = flops_of_a_step(weights, inputs)
    parameters = sum(tensor.numel() for tensor in weights.values())
    print(f"{parameters / 1e6:.0f} M parameters, {flops / 1e12:.3f} TFLOP a step, {args.threads} thread(s)")

    with ExitStack() as stack, torch.no_grad():
        steps = variants(weights, inputs, args, stack)
        outputs = {}
        for name, step in steps.items():  # warm-up: compilation, packing, first touch of the weights
            seconds = cpu_seconds(lambda step=step, name=name: outputs.update({name: step()}))
            print(f"  warm-up {name}: {seconds:.1f} CPU s", flush=True)
        times: dict[str, list[float]] = {name: [] for name in steps}
        gemm = []
        for _ in range(args.rounds):
            for name, step in steps.items():
                gemm.append(sgemm_gflops())
                times[name].append(cpu_seconds(step))
    report(flops, times, gemm, outputs)


def report(flops: int, times: dict[str, list[float]], gemm: list[float], outputs: dict[str, Tensor]) -> None:
    base = "port" if "port" in times else "contiguous"
    print(f"sgemm {SGEMM_SIZE}: best {max(gemm):.1f} GFLOP/s, median {sorted(gemm)[len(gemm) // 2]:.1f}")
    print(f"{'':28}{'CPU s':>8}{'rounds':>20}{'GFLOP/s':>10}{'of sgemm':>10}{'to ' + base:>14}{'max diff':>10}")
    for name, seconds in times.items():
        rate = flops * 1e-9 / min(seconds)
        difference = (outputs[name] - outputs["contiguous"]).abs().max()
        rounds = " ".join(f"{s:.1f}" for s in seconds)
        ratio = min(seconds) / min(times[base])
        print(f"{name:28}{min(seconds):8.2f}{rounds:>20}{rate:10.1f}{rate / max(gemm):10.2f}{ratio:14.3f}{difference:10.0e}")


if __name__ == "__main__":
    main()
