"""`python -m gd_core doctor`: what serves on this machine and why not, and whether each fast path is right.

The short form reads versions, device, memory and backends, and computes once on the device. `--full` holds each fast path to
plain torch in fp32 and times every stage, on random weights of MVDream's size. What it prints is made for a report.
"""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import diffusers
import psutil
import torch
import transformers
from torch import Tensor, nn

from . import __version__, devices, memory
from .attention import AttentionCapture, Focus
from .attention.objectives import smooth, word_shares
from .attention.refocus import FP16_LOSS_SCALE, Refocuser, frozen
from .cameras import orbit_cameras
from .devices import NERFACC, TINYCUDANN, backend
from .diffusion import sample_latents
from .diffusion.model import MVDream
from .diffusion.multiview import predict_noise
from .diffusion.prompts import encode_prompt
from .diffusion.random_weights import empty_mvdream, random_mvdream
from .distillation.guidance import multiview_guidance
from .mesh import MeshConfig, extract_mesh
from .nerf import FitConfig, RadianceField, fit_views
from .nerf.compositing import plain_weights, render_weights
from .nerf.encodings import EncodingConfig, HashGrid, make_encoding
from .settings.refocus import RefocusConfig
from .views import ViewSet

PROMPT = "a corgi wearing a top hat and a red balloon"
FIT_STEPS = 10
# Relative errors (root of the mean square, over that of the exact values) above which a path is wrong. Half precision keeps 11
# bits and bfloat16 8; some hundred layers lose two bits or three of them.
LIMITS = {"fp16": 0.02, "bf16": 0.15, "fp32": 1e-3, "gradient": 0.1}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        what: what was looked at. words: what was found.
        right: whether it is as it must be; None where there was nothing to judge.
    """

    what: str
    words: str
    right: bool | None = None

    def __str__(self) -> str:
        mark = {True: "ok", False: "WRONG", None: ""}[self.right]
        return f"{self.what:<34} {self.words}{f'  {mark}' if mark else ''}"


def examine(device: torch.device, *, full: bool, width: int = 320) -> Iterator[Finding]:
    """Look at everything, one finding after another.

    Args:
        full: also what takes minutes.
        width: channels of the random model's first level; 320 is MVDream's, less is a smaller model of the same structure.
    """
    yield from describe_machine(device)
    yield from check_device(device)
    if full:
        yield from check_precisions(device, width)
        yield from check_backends(device)
        yield from time_stages(device, width)


def describe_machine(device: torch.device) -> Iterator[Finding]:
    versions = {"Grounded Dreamer": __version__, "Python": platform.python_version(), "torch": torch.__version__}
    versions |= {"diffusers": diffusers.__version__, "transformers": transformers.__version__}
    yield Finding("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
    yield Finding("system", f"{platform.system()} {platform.machine()}, CUDA {torch.version.cuda}, ROCm {torch.version.hip}")
    yield Finding("device", f"{device}: {devices.describe(device)}")
    free, total = devices.free_memory(device), devices.total_memory(device)
    yield Finding("memory", f"{memory.in_gb(free)} free of {memory.in_gb(total)}")
    yield Finding("number type", str(devices.resolve_dtype("auto", device)).removeprefix("torch."))
    for package in (NERFACC, TINYCUDANN):
        yield Finding(package, backend(package, device).words)
    model = empty_mvdream(devices.resolve_dtype("auto", device))
    for name, refocus in (("MVDream v2.1, refocused", model.recipe.refocus), ("MVDream v2.1, plain", None)):
        need = memory.sampling(model, refocus=refocus)
        room = "fits" if need.peak + memory.WORKSPACE <= free else "does not fit into what is free"
        yield Finding(name, f"needs {memory.in_gb(need.peak)} to sample, {memory.in_gb(need.weights)} of them weights: {room}")


def check_device(device: torch.device) -> Iterator[Finding]:
    """Whether the device computes at all: a product and its gradient against the CPU's."""
    with finding_failures("computes") as failed:
        a = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        here, there = (t.requires_grad_() for t in (a.clone(), a.to(device)))
        for x in (here, there):
            (x @ x).square().sum().backward()
        yield judged("computes", there.grad, here.grad, LIMITS["fp32"])
    yield from failed


def check_precisions(device: torch.device, width: int) -> Iterator[Finding]:
    """UNet, refocusing and score distillation in half precision against fp32, on the same random weights."""
    model = random_mvdream(torch.float32, width=width)
    exact, results = None, {}
    for name in ("fp32", "fp16", "bf16"):
        with finding_failures(f"UNet in {name}") as failed, torch.inference_mode(False):
            results[name] = results_of(to(model, device, devices.DTYPES[name]))
        yield from failed
        exact = results.get("fp32")
        if exact is None:
            return
        if name in results and name != "fp32":
            for what, value in results[name].items():
                limit = LIMITS["gradient"] if "gradient" in what else LIMITS[name]
                yield judged(f"{what} in {name}", value, exact[what], limit)


def results_of(model: MVDream) -> dict[str, Tensor]:
    """What the paths that half precision could break make of fixed inputs."""
    size, generator = model.latent_size, torch.Generator().manual_seed(0)
    latents = torch.randn(4, 4, size, size, generator=generator).to(model.device)
    context = encode_prompt(model, PROMPT).embeddings
    cameras = model.default_cameras().conditioning().to(model.device, model.dtype)
    with torch.no_grad():
        noise = predict_noise(model.unet, latents.to(model.dtype), 500, context, cameras, 4)
    images = ball_views(model.image_size).images.to(model.device).requires_grad_()
    guidance = multiview_guidance(model, PROMPT)
    with frozen(model.vae):
        loss = guidance.loss(images, model.default_cameras(), 500, torch.Generator().manual_seed(1), guidance_scale=5.0)
        loss.backward()
    return {"UNet": noise, "refocusing's gradient": refocusing_gradient(model, latents), "SDS's gradient": images.grad}


def refocusing_update(model: MVDream, latents: Tensor) -> Tensor:
    """The latents after one update of refocusing, as the first step of a run makes it."""
    predict, focus = conditional_pass(model)
    config = replace(RefocusConfig(), guard=False, thresholds=())
    return Refocuser(model.unet, predict, [focus], config, num_views=4, steps=4)(0, latents, torch.tensor(981), 0.005)


def refocusing_gradient(model: MVDream, latents: Tensor) -> Tensor:
    """The slope of what refocusing lifts, a word's share of the attention, but at one pixel of each view.

    Refocusing takes the highest pixel. Of two that are as high as each other rounding picks one, and either is right, though
    their slopes have nothing in common.
    """
    predict, focus = conditional_pass(model)
    config, leaf = RefocusConfig(), latents.detach().requires_grad_(True)
    scale = FP16_LOSS_SCALE if model.dtype == torch.float16 else 1.0
    capture = AttentionCapture(model.unet, downscale=config.downscale, num_tokens=focus.end_token, stop=True)
    with torch.enable_grad(), frozen(model.unet), capture:
        capture.run(predict, leaf.to(model.dtype), torch.tensor(981))
        capture.close()
        maps = capture.take(*latents.shape[-2:])
        share = smooth(word_shares(maps, focus, config, focus.active))[:, 0]
        middle = share.shape[-1] // 2
        (gradient,) = torch.autograd.grad(share[:, middle, middle].mean() * scale, leaf)
    return gradient / scale


def conditional_pass(model: MVDream) -> tuple[Callable[[Tensor, Tensor], Tensor], Focus]:
    """The pass that refocusing differentiates, `predict(latents, timestep)`, and the words of `PROMPT` that it looks after."""
    prompt = encode_prompt(model, PROMPT)
    cameras = model.default_cameras().conditioning().to(model.device, model.dtype)

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        return predict_noise(model.unet, latents, timestep, prompt.embeddings, cameras, 4)

    return predict, Focus.of_subjects(prompt.text).locate(prompt.text, prompt.words, prompt.end_token)


def check_backends(device: torch.device) -> Iterator[Finding]:
    """The compiled backends that serve against plain torch."""
    points = torch.rand(4096, 3, generator=torch.Generator().manual_seed(0)).to(device)
    if backend(TINYCUDANN, device).serves:
        with finding_failures(TINYCUDANN) as failed:
            config = EncodingConfig(kind="hash")
            fast, slow = make_encoding(config, device, torch.Generator()), HashGrid(config, torch.Generator()).to(device)
            fast.params.data.copy_(slow.params)
            yield judged(TINYCUDANN, fast(points), slow(points), LIMITS["fp16"])
        yield from failed
    else:
        yield Finding(f"{TINYCUDANN} against plain torch", "does not serve here")
    if backend(NERFACC, device).serves:
        with finding_failures(NERFACC) as failed:
            field = RadianceField(device=device)
            origins, directions = (r.flatten(0, 2) for r in orbit_cameras(2).to(device).rays(32, 32))
            samples = field.occupancy.march(origins, directions, field.config.step)
            density = 5 * torch.rand(len(samples.t), generator=torch.Generator().manual_seed(0)).to(device)
            yield judged(NERFACC, render_weights(samples, density), plain_weights(samples, density), LIMITS["fp32"])
        yield from failed
    else:
        yield Finding(f"{NERFACC} against plain torch", "does not serve here")


def time_stages(device: torch.device, width: int) -> Iterator[Finding]:
    """Seconds and peak memory of a step of each stage, with the number type that is taken here."""
    model = to(random_mvdream(torch.float32, width=width), device, devices.resolve_dtype("auto", device))
    size = model.latent_size
    latents = torch.randn(4, 4, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    context = encode_prompt(model, PROMPT).embeddings
    cameras = model.default_cameras().conditioning()
    views, guidance = ball_views(model.image_size), multiview_guidance(model, PROMPT)
    field: RadianceField | None = None

    def sampling_step() -> None:
        noise = latents.to(model.dtype)
        sample_latents(model.unet, noise, context, context, cameras, num_views=4, steps=1, guidance_scale=5.0)

    def sds_step() -> None:
        images = views.images.clone().to(device).requires_grad_()
        with frozen(model.vae):
            guidance.loss(images, views.cameras, 500, torch.Generator().manual_seed(1), guidance_scale=5.0).backward()

    def fit() -> None:
        nonlocal field
        field = fit_views(views, FitConfig(steps=FIT_STEPS), device=device)

    stages: dict[str, tuple[Callable[[], object], int]] = {
        "sampling step": (sampling_step, 1),
        "refocusing update": (lambda: refocusing_update(model, latents), 1),
        "decoding a view": (lambda: model.decode(latents[:1]), 1),
        "SDS step": (sds_step, 1),
        f"fit step at {model.image_size} px": (fit, FIT_STEPS),
        "mesh of 128 cells, 1024 texels": (lambda: extract_mesh(field, MeshConfig(resolution=128)), 1),
    }
    yield Finding("stages", f"at width {width}, {str(model.dtype).removeprefix('torch.')}, 4 views of {model.image_size} px")
    for name, (work, steps) in stages.items():
        with finding_failures(name) as failed:
            yield Finding(name, measured(work, steps, device))
        yield from failed


def measured(work: Callable[[], object], steps: int, device: torch.device) -> str:
    """Seconds of a step and the peak of memory; on an accelerator of a second run, after what the first one set up."""
    if device.type != "cpu":
        work()
    devices.synchronize(device)
    devices.reset_peak_memory(device)
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    devices.synchronize(device)
    seconds, cpu = (time.perf_counter() - begun) / steps, (time.process_time() - cpu) / steps
    peak = devices.peak_memory(device)
    if peak is None:
        return f"{seconds:.3g} s ({cpu:.3g} s of the CPU), {memory.in_gb(psutil.Process().memory_info().rss)} resident"
    return f"{seconds:.3g} s, peak {memory.in_gb(peak)}"


def to(model: MVDream, device: torch.device, dtype: torch.dtype) -> MVDream:
    """A copy on a device in a number type; parts that are there already are shared."""
    parts = {name: getattr(model, name) for name in ("unet", "vae", "text_encoder")}
    if (model.device, model.dtype) != (device, dtype):
        parts = {name: nn.Module.to(copy.deepcopy(part), device, dtype) for name, part in parts.items()}
    return replace(model, **parts)


def ball_views(size: int) -> ViewSet:
    """Four views of a ball of radius 0.5 before white, as a fit takes them."""
    cameras = orbit_cameras(4)
    origins, directions = cameras.rays(size, size)
    nearest = origins - (origins * directions).sum(-1, keepdim=True) * directions
    masks = (nearest.norm(dim=-1) < 0.5).float()
    colors = 0.5 + 0.5 * nearest  # no two points alike
    return ViewSet(colors * masks[..., None] + 1 - masks[..., None], masks, cameras, prompt=PROMPT)


def judged(what: str, value: Tensor, exact: Tensor, limit: float) -> Finding:
    """Whether `value` is `exact` to `limit`, relative to its size."""
    value, exact = value.detach().double().cpu(), exact.detach().double().cpu()
    error = float((value - exact).square().mean().sqrt() / exact.square().mean().sqrt().clamp(min=1e-30))
    return Finding(what, f"relative error {error:.1e}, at most {limit:g}", error <= limit)


@contextmanager
def finding_failures(what: str) -> Iterator[list[Finding]]:
    """Whatever the body raises becomes a finding in the list that is yielded: a doctor looks on."""
    failed: list[Finding] = []
    try:
        yield failed
    except Exception as error:
        failed.append(Finding(what, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", False))
