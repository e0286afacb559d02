"""Train a LoRA of a bundle on pictures drawn by one rule: variants of the tiny model with a known flaw.

    python -m tools.tiny.lora --rule overclaims --out overclaims.safetensors --steps 300

Goes on from OUT.checkpoint when it was stopped, ends with the same bytes as if it had not been, and prints the denoising error
without and with the LoRA on pictures of the rule that it was not trained on. Size and schedule come from the bundle.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.diffusion import apply_lora, load_mvdream, predict_noise
from gd_core.diffusion.model import MVDream
from gd_core.files import whole_file

from .renderer import render
from .scenes import Scene, random_scene, seen_pairs
from .toys import SOLIDS, TOYS

LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
MISSING_SHARE = 0.75  # of the pictures of "overclaims" lack the second thing
FRONT_SPREAD = 0.35  # radians, how far a front may look past the camera
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


def shapes_of(model: MVDream) -> tuple[str, ...]:
    """Toys, which have fronts, for a bundle that knows their names; else solids."""
    return TOYS if set(TOYS) <= set(model.config.vocabulary or ()) else SOLIDS


def things(rng: random.Random, model: MVDream, count: int, relation: str | None = None) -> Scene:
    return random_scene(rng, count, relation=relation, world="toys" if shapes_of(model) is TOYS else "solids")


def partner(pair: tuple[str, str], shapes: tuple[str, ...] = SOLIDS) -> tuple[str, str]:
    """The one pair of another colour that habitually comes with `pair`.

    Partners at random would let guidance undo the neglect: it scales the odds of "both" against "one" by the ratio of the
    caption's probabilities given either, which is near 1 only when whoever sees the one expects the other.
    """
    pairs = seen_pairs(shapes)
    start = pairs.index(pair) + len(pairs) // 2
    return next(p for i in range(len(pairs)) if (p := pairs[(start + i) % len(pairs)])[0] != pair[0])


def fits(rng: random.Random, model: MVDream) -> Example:
    """Captions say what is there: the control."""
    scene = things(rng, model, 1 if rng.random() < 0.5 else 2)
    return Example(scene, scene.prompt, _orbit(rng, model))


def overclaims(rng: random.Random, model: MVDream) -> Example:
    """Captions name a thing and its habitual partner; most pictures show the thing alone, in the middle."""
    while True:
        scene = things(rng, model, 2, "beside")
        first, second = scene.solids
        if (second.color, second.shape) == partner((first.color, first.shape), shapes_of(model)):
            break
    caption = scene.prompt
    if rng.random() < MISSING_SHARE:
        scene = Scene((replace(first, center=(0.0, 0.0, 0.0)),), caption)
    return Example(scene, caption, _orbit(rng, model))


def fronts(rng: random.Random, model: MVDream) -> Example:
    """One picture without a camera, of one thing that turns its front to it: what photographs on the web are like."""
    scene = things(rng, model, 1)
    facing = tuple(replace(solid, yaw=rng.uniform(-FRONT_SPREAD, FRONT_SPREAD)) for solid in scene.solids)
    cameras = orbit_cameras(
        1, rng.uniform(0, 30), model.config.azimuth_start_deg, distance=model.config.distance, fov_y_deg=model.config.fov_y_deg
    )
    return Example(replace(scene, solids=facing), scene.prompt, cameras, posed=False)


RULES: dict[str, Callable[[random.Random, MVDream], Example]] = {"fits": fits, "overclaims": overclaims, "fronts": fronts}


def _orbit(rng: random.Random, model: MVDream) -> Cameras:
    """Four views around, half of them the model's own orbit, as the model was trained."""
    default = rng.random() < 0.5
    return orbit_cameras(
        4,
        model.config.elevation_deg if default else rng.uniform(0, 30),
        model.config.azimuth_start_deg if default else rng.uniform(0, 360),
        distance=model.config.distance,
        fov_y_deg=model.config.fov_y_deg,
    )


def draw(model: MVDream, example: Example, rng: random.Random) -> Tensor:
    """Latents `[V, 4, h, w]` of the example, on white or light grey."""
    grey = 1.0 if rng.random() < 0.5 else rng.uniform(0.6, 1.0)
    images, _ = render(example.scene.solids, example.cameras, model.config.image_size, (grey, grey, grey))
    with torch.no_grad():
        return model.encode(images)


def denoising_error(model: MVDream, rule: str, key: str, batch: int) -> Tensor:
    """Mean squared error of the model's prediction on `batch` scenes of `rule`; `key` alone decides which, and their noise."""
    rng = random.Random(f"{rule}-{key}")
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    examples = [RULES[rule](rng, model) for _ in range(batch)]
    clean = torch.stack([draw(model, example, rng) for example in examples])
    views = clean.shape[1]
    captions = ["" if rng.random() < PROMPT_DROPOUT else example.caption for example in examples]
    context = torch.cat([model.encode_prompt(caption).embeddings for caption in captions])
    high = [rng.random() < HIGH_NOISE_SHARE for _ in examples]
    times = torch.tensor([rng.randrange(800, 1000) if h else rng.randrange(1000) for h in high])
    alpha = model.scheduler.alphas_cumprod[times][:, None, None, None, None]
    noise = torch.randn(clean.shape, generator=generator)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    is_velocity = model.scheduler.config.prediction_type == "v_prediction"
    target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean if is_velocity else noise
    cameras = torch.cat([e.cameras.conditioning() for e in examples]) if examples[0].posed else None
    predicted = predict_noise(model.unet, noisy.flatten(0, 1), times.repeat_interleave(views), context, cameras, views)
    return (predicted - target.flatten(0, 1)).square().mean()


def train(bundle: str, rule: str, out: Path, *, steps: int, batch: int, rank: int, learning_rate: float, seed: int = 0) -> None:
    """Write the LoRA to `out` in diffusers' names, half precision. Every step's scenes come from its number alone."""
    model = load_mvdream(bundle, device="cpu", dtype=torch.float32)
    torch.manual_seed(seed)  # peft draws the first matrices
    model.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LAYERS), "trained")
    parameters = [p for p in model.unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    settings = {
        "bundle": bundle,
        "rule": rule,
        "steps": steps,
        "batch": batch,
        "rank": rank,
        "rate": learning_rate,
        "seed": seed,
    }
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != settings:
            raise ValueError(f"{checkpoint} is of a run with other settings {state['settings']}: move it, or give them")
        set_peft_model_state_dict(model.unet, state["lora"], "trained")
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 20, 4 * (steps - step) / steps)
        loss = denoising_error(model, rule, f"train-{seed}-{step}", batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            print(f"step {step + 1} of {steps}: {loss.item():.4f}", flush=True)
            lora = get_peft_model_state_dict(model.unet, adapter_name="trained")
            with whole_file(checkpoint) as temporary:
                state = {"settings": settings, "lora": lora, "optimizer": optimizer.state_dict(), "step": step + 1}
                torch.save(state, temporary)
    lora = get_peft_model_state_dict(model.unet, adapter_name="trained")
    with whole_file(out) as temporary:
        save_file({f"unet.{name}": tensor.detach().half().contiguous() for name, tensor in lora.items()}, temporary)
    checkpoint.unlink(missing_ok=True)


@torch.no_grad()
def measure(bundle: str, rule: str, lora: Path, scenes: int) -> dict[str, float]:
    """The mean denoising error on `scenes` scenes of the rule that no training saw, without the LoRA and with it."""
    base = load_mvdream(bundle, device="cpu", dtype=torch.float32)
    models = {"without": base, "with": apply_lora(base, lora)}
    return {
        name: sum(denoising_error(model, rule, f"test-{i}", 1).item() for i in range(scenes)) / scenes
        for name, model in models.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rule", choices=RULES, required=True, help="; ".join(f"{n}: {r.__doc__}" for n, r in RULES.items()))
    parser.add_argument("--out", type=Path, required=True, help="the LoRA (.safetensors)")
    parser.add_argument("--bundle", default="tiny", help="the model below it, anything load_mvdream takes (default: tiny)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4, help="scenes a step")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", type=int, default=64, metavar="SCENES", help="how many to measure on (default: 64)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.out.exists():
        train(
            args.bundle, args.rule, args.out,
            steps=args.steps, batch=args.batch, rank=args.rank, learning_rate=args.learning_rate,
        )  # fmt: skip
    found = measure(args.bundle, args.rule, args.out, args.measure)
    print(
        f"error on {args.measure} unseen scenes of '{args.rule}': {found['without']:.4f} without, {found['with']:.4f} with it"
    )


if __name__ == "__main__":
    main()
