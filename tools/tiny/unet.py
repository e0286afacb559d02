"""Stage 3: train the UNet and the text encoder on the shards' latents.

    python -m tools.tiny.unet --run RUN --steps 9000
    python -m tools.tiny.unet --run RUN --steps 4000 --warm-start BUNDLE

Resumes from RUN/checkpoint.pt. What opens the path between views (see docs/tiny_model.md): v-prediction, noise levels and loss
weight shifted to high noise, ray geometry in self-attention, and scenes of which some views are nearly clean. As in
MVDream, 30 % of the batches are single images without a camera. Some captions name a second thing that is not there, until the
last fifth of the training: with captions that always fit, attention need not learn which word belongs where.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn

from gd_core.cameras import camera_conditioning
from gd_core.diffusion import load_mvdream
from gd_core.diffusion.multiview import RayGeometry, install_multiview_attention, predict_noise

from .scenes import COLORS, with_partner
from .text import WIDTH, embed, make_text_encoder, make_tokenizer, start_tokens_from

UNET_CONFIG = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "only_cross_attention": (True, False),  # at the latents' own size words are read, but views are not joined: too dear
    "block_out_channels": (64, 128),
    "layers_per_block": 2,
    "attention_head_dim": 4,  # diffusers' name for the number of heads
    "cross_attention_dim": WIDTH,
    "norm_num_groups": 16,
    "use_linear_projection": True,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 16,
}
GEOMETRY = {"fov_y_deg": 40.0, "distance": 3.0, "frequencies": (3.0, 6.0)}
SCHEDULER_CONFIG = {  # Stable Diffusion's schedule, but for the prediction type
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
SUFFIX = ", 3d asset"
PROMPT_DROPOUT = 0.1
FLAT_SHARE = 0.3  # of the batches are single images without camera (MVDream, section 3.2)
FACING_SHARE = 0.6  # of those show the thing's front where it has one: photographs are taken from in front
CLAIM_SHARE = 0.27  # of the scenes with one thing have a caption that names another, too
CLAIMS_UNTIL = 0.8  # of the training
AVERAGE_DECAY = 0.999  # of the weights' average, a step
SAVE_EVERY = 60.0  # seconds


def make_unet() -> UNet2DConditionModel:
    unet = UNet2DConditionModel(**UNET_CONFIG)
    install_multiview_attention(unet, RayGeometry(**GEOMETRY))
    return unet


@dataclass
class Latents:
    """Encoded scenes.

    Attributes:
        latents: `[n, 4, 4, 16, 16]`; cameras: `[n, 4, 16]`; front: `[n, 4]`, how far a thing's front turns to each camera.
        tokens: `[n, 77]` of the captions; claims: `[n, 77]`, the same where the scene has two things, and where it has one,
            of a caption that names a second; single: `[n]`.
    """

    latents: Tensor
    cameras: Tensor
    front: Tensor
    tokens: Tensor
    claims: Tensor
    single: Tensor

    @classmethod
    def load(cls, shard: Path, tokenizer, device: str = "cpu") -> Latents:
        """Of one file of RUN/latents."""
        with safe_open(shard, framework="pt") as file:
            latents, front = file.get_tensor("latents"), file.get_tensor("front")
            cameras = camera_conditioning(file.get_tensor("c2w").flatten(0, 1)).unflatten(0, (-1, 4))
            prompts = json.loads(file.metadata()["prompts"])
        single = torch.tensor([sum(word in COLORS for word in p.split()) == 1 for p in prompts])
        rng = random.Random(shard.name)
        claims = [with_partner(rng, p) if alone else p for p, alone in zip(prompts, single.tolist(), strict=True)]
        tokens, claims = (
            tokenizer([p + SUFFIX for p in texts], padding="max_length", return_tensors="pt").input_ids
            for texts in (prompts, claims)
        )
        return cls(*(tensor.to(device) for tensor in (latents, cameras, front, tokens, claims, single)))

    @classmethod
    def joined(cls, parts: Sequence[Latents]) -> Latents:
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def captions(self, index: Tensor, claim_share: float, generator: torch.Generator) -> Tensor:
        claiming = self.single[index] & (torch.rand(len(index), generator=generator, device=index.device) < claim_share)
        return torch.where(claiming[:, None], self.claims[index], self.tokens[index])

    def facing(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """One view of each scene `[batch]`: the one that its front faces in `FACING_SHARE` of the cases, or any."""
        any_view = torch.randint(4, (len(index),), generator=generator, device=index.device)
        faced = torch.rand(len(index), generator=generator, device=index.device) < FACING_SHARE
        return torch.where(faced, self.front[index].argmax(1), any_view)


class Model(nn.Module):
    def __init__(self, run: Path):
        super().__init__()
        self.tokenizer = make_tokenizer(run / "tokenizer")
        self.text_encoder = make_text_encoder(self.tokenizer)
        self.unet = make_unet()


def draw_timesteps(batch: int, progress: float, generator: torch.Generator) -> Tensor:
    """`[batch, 4]`: half of the mass in 800..999 at first, a quarter later; a share of scenes with nearly clean views."""

    def share(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    def steps(first: int, end: int, *shape: int) -> Tensor:
        return torch.randint(first, end, shape, generator=generator, device=generator.device)

    high = share(batch) < 0.25 + 0.25 * max(0.0, 1 - 2.2 * progress)
    t = torch.where(high, steps(800, 1000, batch), steps(0, 1000, batch))[:, None].repeat(1, 4)
    mixed = share(batch) < 0.1 + 0.3 * max(0.0, 1 - 2.2 * progress)
    clean_views = share(batch, 4).argsort(1) < steps(1, 4, batch, 1)
    mixed_t = torch.where(clean_views, steps(0, 500, batch, 4), steps(700, 1000, batch, 1).expand(-1, 4))
    return torch.where(mixed[:, None], mixed_t, t)


def loss_weight(snr: Tensor, progress: float) -> Tensor:
    """min((1 + SNR) / SNR, cap): the cap falls from 50 to 4, from opening the cross-view path to drawing well."""
    cap = 4 + 46 * max(0.0, 1 - 2.2 * progress) ** 2
    return ((1 + snr) / snr).clamp(max=cap)


def start_from_bundle(model: Model, bundle: str) -> None:
    """A bundle's weights wherever names and shapes fit; attention that it lacks starts as a no-op, new words near old ones."""
    source = load_mvdream(bundle, device="cpu", dtype=torch.float32)
    own, given = model.unet.state_dict(), source.unet.state_dict()
    misfits = [n for n in given if n not in own or own[n].shape != given[n].shape]
    if misfits:
        raise ValueError(f"{bundle} is no start for this UNet: {misfits[:3]} do not fit")
    model.unet.load_state_dict(own | given)
    with torch.no_grad():
        for name, parameter in model.unet.named_parameters():
            if name not in given and ".proj_out." in name:
                parameter.zero_()
    start_tokens_from(model.text_encoder, model.tokenizer, source.text_encoder, source.tokenizer)


def draw_batch(data: Latents, batch: int, progress: float, opening: float, flat: bool, generator: torch.Generator) -> tuple:
    """Clean latents `[b, V, 4, h, w]`, timesteps `[b, V]`, token ids `[b, 77]`, camera vectors `[b * V, 16]` or None.

    V is 4 and b `batch`; with `flat` V is 1, b is 4 x `batch`, and there are no cameras.
    """
    size = 4 * batch if flat else batch
    index = torch.randint(len(data.latents), (size,), generator=generator, device=generator.device)
    tokens = data.captions(index, CLAIM_SHARE if progress < CLAIMS_UNTIL else 0.0, generator)
    t = draw_timesteps(size, opening, generator)
    if flat:
        return data.latents[index, data.facing(index, generator)][:, None].float(), t[:, :1], tokens, None
    return data.latents[index].float(), t, tokens, data.cameras[index].flatten(0, 1)


class Replayed:
    """`function`, which takes and gives tensors of fixed shapes; on a GPU it is recorded as a CUDA graph and replayed.

    So a step costs its kernels alone: they are too short to hide the Python that launches them. The first calls run plainly,
    so that everything is compiled and allocated; what comes out is overwritten by the next call.
    """

    PLAIN_CALLS = 3

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]):
        self.function = function
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        if not given[0].is_cuda:
            return self.function(*given)
        self.calls += 1
        if self.calls <= self.PLAIN_CALLS:
            stream = torch.cuda.Stream()  # recording asks for a stream of its own before, too
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                result = self.function(*given)
            torch.cuda.current_stream().wait_stream(stream)
            return result
        if self.graph is None:
            self.given = [tensor.clone() for tensor in given]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.result = self.function(*self.given)
        for own, new in zip(self.given, given, strict=True):
            own.copy_(new)
        self.graph.replay()
        return self.result


def train(
    run: Path,
    steps: int,
    batch: int,
    highest_rate: float,
    warm_start: str | None = None,
    device: str = "cpu",
    budget: float | None = None,
) -> None:
    """Train to `steps`, or for `budget` seconds if that is sooner; what changes in its course goes by the nearer end."""
    torch.manual_seed(0)
    model = Model(run)
    checkpoint = run / "checkpoint.pt"
    if warm_start and not checkpoint.exists():
        start_from_bundle(model, warm_start)
    model.to(device)
    model.unet.to(memory_format=torch.channels_last)
    parameters = [p for p in model.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    geometric = [p for n, p in model.named_parameters() if n.endswith((".gain", ".same_view"))]
    chosen = {id(p) for p in geometric}
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in parameters if id(p) not in chosen]}, {"params": geometric, "lr": 1e-2, "weight_decay": 0.0}],
        lr=highest_rate,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        fused=True,
    )
    base = [highest_rate, 1e-2]
    if device == "cuda":  # a recorded step reads its rates from tensors
        for group in optimizer.param_groups:
            group["lr"], group["capturable"] = torch.tensor(group["lr"], device=device), True
    rates = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator(device).manual_seed(0)
    step, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        average = state["average"]
        generator.set_state(state["generator"].cpu())
        step, seconds = state["step"], state["seconds"]
    parts: dict[Path, Latents] = {}
    alphas = DDIMScheduler(**SCHEDULER_CONFIG).alphas_cumprod.to(device)
    empty = model.tokenizer("", padding="max_length", return_tensors="pt").input_ids.to(device)
    log = (run / "unet.jsonl").open("a")
    start, saved = time.time() - seconds, time.time()

    def update(latents, target, t, tokens, weight, cameras=None) -> tuple[Tensor, ...]:
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
            context = embed(model.text_encoder, tokens)
            out = predict_noise(model.unet, latents, t.flatten(), context, cameras, t.shape[1])
        error = ((out.float().unflatten(0, t.shape) - target) ** 2).mean((2, 3, 4))
        loss = (weight * error).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return error.detach(), loss.detach(), norm

    updates = {flat: Replayed(update) for flat in (False, True)}
    sums = torch.zeros(2, 2, 10, device=device)  # of errors and of images; posed and flat; by noise level

    def done() -> float:  # as a share
        return max(step / steps, (time.time() - start) / budget if budget else 0.0)

    last = done() >= 1
    while not last:
        progress = min(1.0, done())
        if not parts or step % 200 == 0:  # shards may still be coming in
            if new := sorted(set((run / "latents").glob("*.safetensors")) - parts.keys()):
                parts |= {shard: Latents.load(shard, model.tokenizer, device) for shard in new}
                data = Latents.joined(list(parts.values()))
        if not parts:
            raise SystemExit(f"{run / 'latents'} holds no latents: run tools.tiny.data and tools.tiny.vae first")
        opening = max(progress, 0.5) if warm_start else progress  # a warm start has its views agreeing already
        rate = min(1.0, (step + 1) / 200) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * progress)))
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            if device == "cuda":
                group["lr"].fill_(lr * rate)
            else:
                group["lr"] = lr * rate
        flat = random.Random(f"flat-{step}").random() < FLAT_SHARE
        clean, t, tokens, cameras = draw_batch(data, batch, progress, opening, flat, generator)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        alpha = alphas[t][:, :, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        dropped = torch.rand(len(tokens), 1, generator=generator, device=device) < PROMPT_DROPOUT
        latents = noisy.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        snr = (alpha / (1 - alpha))[:, :, 0, 0, 0]
        given = (latents, target, t, torch.where(dropped, empty, tokens), loss_weight(snr, opening))
        error, loss, norm = updates[flat](*given, *(() if flat else (cameras,)))
        decay = min(AVERAGE_DECAY, (step + 10) / (step + 100))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        bins = (t.flatten() // 100).clamp(max=9)
        sums[0, int(flat)].index_add_(0, bins, error.flatten())
        sums[1, int(flat)].index_add_(0, bins, torch.ones_like(error).flatten())
        step += 1
        last = done() >= 1
        if step % 50 == 0 or last:
            row = {"step": step, "seconds": time.time() - start, "loss": loss.item(), "norm": norm.item()}
            row["scenes"] = len(data.latents)
            means = (sums[0] / sums[1].clamp(min=1)).tolist()
            row["v_error"], row["v_error_flat"] = [[round(v, 4) for v in values] for values in means]
            sums.zero_()
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(row, flush=True)
        if time.time() - saved > SAVE_EVERY or last:
            saved = time.time()
            state = {
                "model": model.state_dict(),
                "average": average,
                "optimizer": optimizer.state_dict(),
                "generator": generator.get_state(),
                "step": step,
                "seconds": time.time() - start,
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)


def load_averaged(run: Path) -> Model:
    """The exponential moving average of the weights in RUN/checkpoint.pt, ready to run."""
    model = Model(run)
    state = torch.load(run / "checkpoint.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    with torch.no_grad():
        for parameter, value in zip([p for p in model.parameters() if p.requires_grad], state["average"], strict=True):
            parameter.copy_(value)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--seconds", type=float, help="end sooner, after this long")
    parser.add_argument("--batch", type=int, default=8, help="scenes of four views a step")
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--warm-start", metavar="BUNDLE", help="begin from a bundle's weights; RUN/vae must be aligned with its vae/"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")  # TF32 on CUDA; a CPU has nothing of the kind
    train(args.run, args.steps, args.batch, args.learning_rate, args.warm_start, args.device, args.seconds)


if __name__ == "__main__":
    main()
