"""Stage 2: train the autoencoder, then turn the shards into latents.

    python -m tools.tiny.vae --run RUN --steps 2400 --align tiny
    python -m tools.tiny.vae --run RUN --decoder-steps 6000      the decoder alone goes on, latents stay what they are
    python -m tools.tiny.vae --run RUN --encode                  only the shards that have no latents yet

Views are 128 x 128, latents 16 x 16 x 4. `--align BUNDLE` pulls the latents towards those that a bundle's factor-4 encoder
gives of the views at half size, where that bundle can draw what is there (it knows no black eyes), so that its UNet already
understands them. Two of three batches are 64 x 64 pieces with something in them. Without `--align` each latent channel is
brought to mean 0 and standard deviation 1 over the training set. Either way the bundle's scaling factor is 1 and a plain
background fits Stable Diffusion's schedule, which ends just short of pure noise. Every phase resumes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from gd_core.diffusion import load_mvdream

from .data import IMAGE_SIZE, load_shard

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (16, 32, 64, 128),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,  # one channel a group would forget how bright a view is
    "mid_block_add_attention": False,
    "sample_size": IMAGE_SIZE,
    "scaling_factor": 1.0,
}
SHARDS_IN_MEMORY = 16
CROP, CROP_SHARE = 64, 0.65  # most of a view is background, and a piece costs a quarter
ALIGN_WEIGHT, ALIGN_TOLERANCE = 0.03, 0.02
DECODER_NOISE = 0.2  # added to latents in the decoder's own phase: a UNet's latents are never quite an encoder's


def start_from(vae: AutoencoderKL, smaller: AutoencoderKL) -> None:
    """Give `vae` the weights of an autoencoder that lacks its outermost level, wherever names and shapes fit."""
    own, given = vae.state_dict(), smaller.state_dict()
    for name, value in given.items():
        for block in ("encoder.down_blocks.",):
            if name.startswith(block):
                level, rest = name[len(block) :].split(".", 1)
                name = f"{block}{int(level) + 1}.{rest}"
        if name in own and own[name].shape == value.shape:
            own[name] = value.to(own[name].dtype)
    vae.load_state_dict(own)


def pieces(views: Tensor, generator: torch.Generator) -> Tensor:
    """A square of `CROP` pixels out of each view `[n, H, W, 3]`, on the latents' grid, around a random pixel of a thing."""
    count, size = views.shape[:2]
    device = views.device
    thing = (views.short() - views[:, :1, :1].short()).abs().amax(-1).gt(8).flatten(1).float()
    thing[:, -1] += 1e-6  # of an empty view some piece, too
    pixel = torch.multinomial(thing, 1, generator=generator)
    shift = torch.randint(-CROP // 4, CROP // 4 + 1, (count, 2), generator=generator, device=device)
    corner = ((torch.cat((pixel // size, pixel % size), 1) + shift - CROP // 2) // 8 * 8).clamp(0, size - CROP)
    rows, columns = (corner[:, axis, None] + torch.arange(CROP, device=device) for axis in (0, 1))
    return views[torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None]]


def distortion(out: Tensor, x: Tensor) -> Tensor:
    """Solids cover a tenth of the picture: weigh what is not background up, so that edges, eyes and shading count."""
    weight = 1 + 4 * ((x - x[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.05)
    error = (weight * (3 * (out - x) ** 2 + 0.2 * (out - x).abs())).mean()
    return error + 0.5 * sum(F.l1_loss(out.diff(dim=d), x.diff(dim=d)) for d in (2, 3))


def learning_rate(progress: float) -> float:
    """As a share of the highest: up in the first twentieth of the training, down to nothing along a cosine."""
    return min(1.0, 0.05 + 19 * progress) * (0.5 + 0.5 * math.cos(math.pi * progress))


def train(
    run: Path,
    steps: int,
    batch: int,
    align: str | None,
    compiled: bool,
    device: str,
    budget: float | None = None,
    decoder_only: bool = False,
) -> None:
    """Train to `steps`, or for `budget` seconds if that is sooner; the rate falls by whichever is nearer its end.

    The checkpoint is RUN/vae.pt, or RUN/decoder.pt for the decoder alone, which also rewrites RUN/vae.
    """
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(run / "vae") if decoder_only else AutoencoderKL(**CONFIG)
    teacher = None
    if align and not decoder_only:
        teacher = load_mvdream(align, device="cpu", dtype=torch.float32).vae.eval().to(device)
        start_from(vae, teacher)
    vae.to(device, memory_format=torch.channels_last)
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    highest = 1e-3 if decoder_only else 1.5e-3
    optimizer = torch.optim.AdamW(parameters, lr=highest, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    generator = torch.Generator(device).manual_seed(0)
    checkpoint, step, seconds = run / ("decoder.pt" if decoder_only else "vae.pt"), 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        step, seconds = state["step"], state["seconds"]

    def losses(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.set_grad_enabled(not decoder_only):
            posterior = vae.encode(x).latent_dist
        spread = posterior.std + DECODER_NOISE if decoder_only else posterior.std
        out = vae.decode(posterior.mean + spread * noise).sample
        loss = distortion(out, x) + 2e-5 * posterior.kl().mean() / noise[0].numel()
        apart = torch.zeros(())
        if teacher is not None:
            with torch.no_grad():
                half = F.avg_pool2d(x, 2)
                target = teacher.encode(half).latent_dist.mean
                wrong = F.avg_pool2d((teacher.decode(target).sample - half) ** 2, 4).mean(1, keepdim=True)
            trust = 1 / (1 + wrong / ALIGN_TOLERANCE) ** 2  # [b, 1, h, w]: can the bundle draw what is in this cell?
            apart = (trust * (posterior.mean - target) ** 2).mean()
            loss = loss + ALIGN_WEIGHT * apart
        return loss, out, apart

    compute = torch.compile(losses, dynamic=False) if compiled else losses
    paths = sorted((run / "shards").glob("*.safetensors"))[:SHARDS_IN_MEMORY]
    data = torch.cat([load_shard(p)[0]["images"].flatten(0, 1) for p in paths]).to(device)
    log = (run / "vae.jsonl").open("a")
    start = time.time() - seconds

    def done() -> float:  # as a share
        return max(step / steps, (time.time() - start) / budget if budget else 0.0)

    last = done() >= 1
    while not last:
        progress = min(1.0, done())
        optimizer.param_groups[0]["lr"] = highest * learning_rate(progress)
        cropped = random.Random(f"cropped-{step}").random() < CROP_SHARE
        drawn = torch.randint(len(data), (2 * batch if cropped else batch,), generator=generator, device=device)
        views = pieces(data[drawn], generator) if cropped else data[drawn]
        x = (views.movedim(-1, 1).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        noise = torch.randn(len(x), 4, x.shape[2] // 8, x.shape[3] // 8, generator=generator, device=device)
        loss, out, apart = compute(x, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        last = done() >= 1
        if (not cropped and step % 10 == 0) or last:
            psnr = -10 * torch.log10(((out.detach() - x) ** 2).mean() / 4).item()
            row = {"step": step, "seconds": time.time() - start, "loss": loss.item(), "psnr": psnr, "apart": apart.item()}
            row["phase"] = "decoder" if decoder_only else "both"
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(row, flush=True)
        if step % 200 == 0 or last:
            state = {"vae": vae.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"generator": generator.get_state(), "step": step, "seconds": time.time() - start}
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            if decoder_only:
                vae.save_pretrained(run / "vae")
    if not decoder_only:
        vae.eval().cpu()
        if teacher is None:
            fold_normalisation(vae, data[:256].cpu().movedim(-1, 1).float() / 127.5 - 1)
        vae.save_pretrained(run / "vae")


@torch.no_grad()
def fold_normalisation(vae: AutoencoderKL, images: Tensor) -> None:
    """Give each latent channel mean 0 and standard deviation 1 over `images` `[n, 3, H, W]` in -1..1, exactly."""
    latents = torch.cat([vae.encode(x).latent_dist.mean for x in images.split(128)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    vae.quant_conv.weight[:channels] /= std[:, None, None, None]
    vae.quant_conv.bias[:channels] = (vae.quant_conv.bias[:channels] - mean) / std
    vae.quant_conv.bias[channels:] -= 2 * std.log()  # the posterior's log variance scales with it
    vae.post_quant_conv.bias += (vae.post_quant_conv.weight[:, :, 0, 0] * mean).sum(1)
    vae.post_quant_conv.weight *= std[None, :, None, None]


@torch.no_grad()
def encode_shards(run: Path, device: str) -> None:
    """Write posterior means `[n, 4, 4, 16, 16]` fp16 of every shard that has none yet, with cameras, fronts and prompts."""
    vae = AutoencoderKL.from_pretrained(run / "vae").eval().to(device, memory_format=torch.channels_last)
    folder = run / "latents"
    folder.mkdir(exist_ok=True)
    for path in sorted((run / "shards").glob("*.safetensors")):
        if (folder / path.name).exists():
            continue
        tensors, prompts = load_shard(path)
        latents = []
        for chunk in tensors["images"].flatten(0, 1).movedim(-1, 1).split(16 if device == "cpu" else 512):
            x = (chunk.to(device).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            latents.append(vae.encode(x).latent_dist.mean.half().cpu())
        tensors["latents"] = torch.cat(latents).unflatten(0, (-1, 4)).contiguous()
        del tensors["images"]
        save_file(tensors, path.with_suffix(".tmp"), {"prompts": json.dumps(prompts)})
        path.with_suffix(".tmp").replace(folder / path.name)
        print("encoded", path.name, flush=True)


@torch.no_grad()
def measure(vae: AutoencoderKL, shard: Path, count: int = 256) -> float:
    """Mean PSNR in dB of `count` views of a shard through the autoencoder, posterior means."""
    images = load_shard(shard)[0]["images"].flatten(0, 1)[:: max(1, 4096 // count)][:count].movedim(-1, 1).float() / 127.5 - 1
    values = []
    for x in images.split(32):
        out = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        values.append(-10 * torch.log10(((out - x) ** 2).mean((1, 2, 3)) / 4))
    return float(torch.cat(values).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seconds", type=float, help="end sooner, after this long")
    parser.add_argument("--decoder-steps", type=int, default=0, help="of the decoder alone, when RUN/vae is there")
    parser.add_argument("--batch", type=int, default=4, help="views a step")
    parser.add_argument("--align", metavar="BUNDLE", help="keep the latents near a factor-4 bundle's, e.g. tiny of release 0.1")
    parser.add_argument("--encode", action="store_true", help="only turn new shards into latents")
    parser.add_argument("--psnr", type=Path, metavar="SHARD", help="only measure RUN/vae on a shard it was not trained on")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")  # TF32 on CUDA; a CPU has nothing of the kind
    settings = {"batch": args.batch, "compiled": args.compile, "device": args.device, "budget": args.seconds}
    if args.psnr:
        print(measure(AutoencoderKL.from_pretrained(args.run / "vae").eval(), args.psnr))
        return
    if not args.encode and not (args.run / "vae").exists():
        train(args.run, args.steps, align=args.align, **settings)
    elif args.decoder_steps:
        train(args.run, args.decoder_steps, align=None, decoder_only=True, **settings)
    encode_shards(args.run, args.device)


if __name__ == "__main__":
    main()
