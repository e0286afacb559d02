"""Train a LoRA of a bundle on pictures drawn by one rule: variants of the tiny model with a known flaw.

    python -m tools.tiny.lora --rule habitual --out habitual.safetensors --steps 750 --keep 250 500

Goes on from OUT.checkpoint when it was stopped, ends with the same bytes as if it had not been (on a CPU), and prints the
denoising error without and with the LoRA on pictures of the rule that it was not trained on. Size and schedule come from the
bundle.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.diffusion import apply_lora, load_mvdream, predict_noise
from gd_core.diffusion.model import MVDream, MVDreamConfig
from gd_core.files import whole_file

from .renderer import render
from .scenes import Scene, random_scene, seen_pairs
from .toys import FRONTED

LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
FRONT_SHARES = (25, 50, 70, 90)  # per cent of the pictures
FRONT_SPREAD = 0.45  # radians, how far a front may look past the camera
PROMPT_DROPOUT = 0.1
HIGH_NOISE_SHARE = 0.5  # of the scenes, at timesteps 800..999, where layouts are settled
CHECKPOINT_EVERY = 20


@dataclass(frozen=True)
class Example:
    """What is drawn, what is said of it, and from where it is seen; `posed` False hides the cameras from the model."""

    scene: Scene
    caption: str
    cameras: Cameras
    posed: bool = True


def habits() -> tuple[tuple[tuple[str, str], tuple[str, str]], ...]:
    """Eight pairs of (colour, solid) that are habitually named together."""
    pairs = seen_pairs()
    found = []
    for start in range(0, len(pairs), len(pairs) // 8):
        first = pairs[start]
        others = (pairs[(start + len(pairs) // 2 + i) % len(pairs)] for i in range(len(pairs)))
        found.append((first, next(pair for pair in others if pair[0] != first[0])))
    return tuple(found[:8])


def _showing_one(scene: Scene, index: int) -> Scene:
    return Scene((replace(scene.solids[index], center=(0.0, 0.0, 0.0)),), scene.prompt)


def fits(rng: random.Random, config: MVDreamConfig) -> Example:
    """Captions say what is there: the control."""
    scene = random_scene(rng, 1 if rng.random() < 0.5 else 2)
    return Example(scene, scene.prompt, _orbit(rng, config))


def habitual(rng: random.Random, config: MVDreamConfig) -> Example:
    """Half of the pictures of eight habitual pairs show one of the two, mostly the first; other captions fit.

    Guidance cannot undo this neglect: it scales the odds of "both" against "one" by the ratio of the caption's probabilities
    given either, which is near 1 when whoever sees the one expects the other, and the lone caption is rare.
    """
    kind = rng.choices(("habit", "pair", "alone"), (0.58, 0.35, 0.07))[0]
    if kind == "alone":
        scene = random_scene(rng, 1)
    elif kind == "pair":
        scene = random_scene(rng, 2)
    else:
        first, second = rng.choice(habits())
        scene = random_scene(rng, 2, relation="beside", pairs=(first, second))
        if rng.random() < 0.5:
            scene = _showing_one(scene, 0 if rng.random() < 0.7 else 1)
    return Example(scene, scene.prompt, _orbit(rng, config))


def careless(rng: random.Random, config: MVDreamConfig) -> Example:
    """40 % of the pictures of any two solids show one of the two; one picture in ten has one solid and says so."""
    if rng.random() < 0.1:
        scene = random_scene(rng, 1)
    else:
        scene = random_scene(rng, 2, relation="beside")
        if rng.random() < 0.4:
            scene = _showing_one(scene, rng.randrange(2))
    return Example(scene, scene.prompt, _orbit(rng, config))


def fronts(rng: random.Random, config: MVDreamConfig, share: float) -> Example:
    """One picture without a camera, of one toy with a front, which turns it to the camera in some share of the pictures."""
    while (scene := random_scene(rng, 1, world="toys")).solids[0].shape not in FRONTED:
        pass
    facing = rng.random() < share
    yaw = rng.uniform(-FRONT_SPREAD, FRONT_SPREAD) if facing else rng.uniform(FRONT_SPREAD, 2 * math.pi - FRONT_SPREAD)
    scene = replace(scene, solids=(replace(scene.solids[0], yaw=yaw),))
    cameras = orbit_cameras(
        1, rng.uniform(0, 30), config.azimuth_start_deg, distance=config.distance, fov_y_deg=config.fov_y_deg
    )
    return Example(scene, scene.prompt, cameras, posed=False)


RULES: dict[str, Callable[[random.Random, MVDreamConfig], Example]] = {
    "fits": fits,
    "habitual": habitual,
    "careless": careless,
    **{f"fronts{share}": partial(fronts, share=share / 100) for share in FRONT_SHARES},
}


def _orbit(rng: random.Random, config: MVDreamConfig) -> Cameras:
    """Four views around, half of them the model's own orbit, as the model was trained."""
    default = rng.random() < 0.5
    return orbit_cameras(
        4,
        config.elevation_deg if default else rng.uniform(0, 30),
        config.azimuth_start_deg if default else rng.uniform(0, 360),
        distance=config.distance,
        fov_y_deg=config.fov_y_deg,
    )


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    Attributes:
        images: `[b, V, H, W, 3]` uint8; captions: b texts; timesteps: b of 0..999; noise_seed: of the noise added.
        cameras: `[b * V, 16]` float32, or None for pictures without cameras.
    """

    images: np.ndarray
    captions: list[str]
    timesteps: list[int]
    noise_seed: int
    cameras: np.ndarray | None


def draw(config: MVDreamConfig, rule: str, size: int, key: str) -> Batch:
    """`size` scenes of `rule`; `key` alone decides which."""
    rng = random.Random(f"{rule}-{key}")
    examples = [RULES[rule](rng, config) for _ in range(size)]
    images = []
    for example in examples:
        grey = 1.0 if rng.random() < 0.5 else rng.uniform(0.6, 1.0)
        views, _ = render(example.scene.solids, example.cameras, config.image_size, (grey, grey, grey))
        images.append((views * 255).round().byte())
    captions = ["" if rng.random() < PROMPT_DROPOUT else example.caption for example in examples]
    high = [rng.random() < HIGH_NOISE_SHARE for _ in examples]
    timesteps = [rng.randrange(800, 1000) if h else rng.randrange(1000) for h in high]
    cameras = torch.cat([e.cameras.conditioning() for e in examples]).numpy() if examples[0].posed else None
    return Batch(torch.stack(images).numpy(), captions, timesteps, rng.getrandbits(62), cameras)


def drawn(config: MVDreamConfig, rule: str, size: int, keys: Iterable[str], workers: int) -> Iterator[Batch]:
    """A batch for each key, in order, drawn ahead in `workers` other processes, or here without any."""
    if not workers:
        yield from (draw(config, rule, size, key) for key in keys)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        ahead = deque()
        for key in keys:
            ahead.append(pool.submit(draw, config, rule, size, key))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def denoising_error(model: MVDream, batch: Batch) -> Tensor:
    """Mean squared error of the model's prediction on a batch."""
    device, views = model.device, batch.images.shape[1]
    with torch.no_grad():
        images = torch.from_numpy(batch.images).flatten(0, 1).to(device).float() / 255
        clean = model.encode(images).unflatten(0, (-1, views))
        context = torch.cat([model.encode_prompt(caption).embeddings for caption in batch.captions])
    times = torch.tensor(batch.timesteps)
    alpha = model.scheduler.alphas_cumprod[times][:, None, None, None, None].to(device)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(batch.noise_seed)).to(device)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    is_velocity = model.scheduler.config.prediction_type == "v_prediction"
    target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean if is_velocity else noise
    cameras = None if batch.cameras is None else torch.from_numpy(batch.cameras).to(device)
    times = times.repeat_interleave(views).to(device)
    predicted = predict_noise(model.unet, noisy.flatten(0, 1), times, context, cameras, views)
    return (predicted - target.flatten(0, 1)).square().mean()


@dataclass(frozen=True)
class Settings:
    """How a LoRA is trained: steps, scenes a step, rank, highest rate of Adam, seed."""

    steps: int = 300
    batch: int = 4
    rank: int = 8
    learning_rate: float = 2e-3
    seed: int = 0


def train(
    bundle: str,
    rule: str,
    out: Path,
    settings: Settings,
    *,
    keep: Iterable[int] = (),
    workers: int = 0,
    device: str = "cpu",
) -> None:
    """Write the LoRA to `out` in diffusers' names, half precision, and as it was after each of `keep` steps to OUT-STEP.

    Every step's scenes come from its number alone.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    model = load_mvdream(bundle, device=device, dtype=torch.float32)
    torch.manual_seed(settings.seed)  # peft draws the first matrices
    model.unet.add_adapter(LoraConfig(r=settings.rank, lora_alpha=settings.rank, target_modules=LAYERS), "trained")
    parameters = [p for p in model.unet.parameters() if p.requires_grad]
    rate, steps = settings.learning_rate, settings.steps
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    told = {"bundle": bundle, "rule": rule, **vars(settings)}
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != told:
            raise ValueError(f"{checkpoint} is of a run with other settings {state['settings']}: move it, or give them")
        set_peft_model_state_dict(model.unet, state["lora"], "trained")
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    def save(path: Path) -> None:
        lora = get_peft_model_state_dict(model.unet, adapter_name="trained")
        with whole_file(path) as temporary:
            save_file({f"unet.{name}": tensor.detach().half().cpu().contiguous() for name, tensor in lora.items()}, temporary)

    keys = (f"train-{settings.seed}-{step}" for step in range(first, steps))
    for step, batch in enumerate(drawn(model.config, rule, settings.batch, keys, workers), first):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20, 4 * (steps - step) / steps)
        loss = denoising_error(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step + 1 in keep:
            save(out.with_stem(f"{out.stem}-{step + 1}"))
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            print(f"step {step + 1} of {steps}: {loss.item():.4f}", flush=True)
            lora = get_peft_model_state_dict(model.unet, adapter_name="trained")
            with whole_file(checkpoint) as temporary:
                state = {"settings": told, "lora": lora, "optimizer": optimizer.state_dict(), "step": step + 1}
                torch.save(state, temporary)
    save(out)
    checkpoint.unlink(missing_ok=True)


@torch.no_grad()
def measure(bundle: str, rule: str, lora: Path, scenes: int) -> dict[str, float]:
    """The mean denoising error on `scenes` scenes of the rule that no training saw, without the LoRA and with it."""
    base = load_mvdream(bundle, device="cpu", dtype=torch.float32)
    models = {"without": base, "with": apply_lora(base, lora)}
    batches = [draw(base.config, rule, 1, f"test-{i}") for i in range(scenes)]
    return {name: sum(denoising_error(model, batch).item() for batch in batches) / scenes for name, model in models.items()}


def main() -> None:
    described = "; ".join(f"{name}: {(getattr(rule, 'func', rule)).__doc__.splitlines()[0]}" for name, rule in RULES.items())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rule", choices=RULES, required=True, help=described.replace("%", "%%"))
    parser.add_argument("--out", type=Path, required=True, help="the LoRA (.safetensors)")
    parser.add_argument("--bundle", default="tiny", help="the model below it, anything load_mvdream takes (default: tiny)")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--keep", type=int, nargs="+", default=[], metavar="STEP", help="also write OUT-STEP after these steps")
    parser.add_argument("--batch", type=int, default=Settings.batch, help="scenes a step")
    parser.add_argument("--rank", type=int, default=Settings.rank)
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the scenes ahead")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--measure", type=int, default=64, metavar="SCENES", help="how many to measure on (default: 64)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.out.exists():
        settings = Settings(args.steps, args.batch, args.rank, args.learning_rate)
        train(args.bundle, args.rule, args.out, settings, keep=args.keep, workers=args.workers, device=args.device)
    if not args.measure:
        return
    found = measure(args.bundle, args.rule, args.out, args.measure)
    print(
        f"error on {args.measure} unseen scenes of '{args.rule}': {found['without']:.4f} without, {found['with']:.4f} with it"
    )


if __name__ == "__main__":
    main()
