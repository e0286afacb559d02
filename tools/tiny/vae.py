"""Stage 2: train the autoencoder, then turn the shards into latents.

    python -m tools.tiny.vae --run RUN --steps 2000

Each latent channel is brought to mean 0 and standard deviation 1 over the training set by folding that affine map into
`quant_conv` and `post_quant_conv`, so the bundle's scaling factor is 1 and a plain background fits Stable Diffusion's
schedule, which ends just short of pure noise.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from .data import load_shard

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (16, 32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "sample_size": 64,
    "scaling_factor": 1.0,
}


def train(run: Path, steps: int, batch: int = 16) -> AutoencoderKL:
    torch.manual_seed(0)
    vae = AutoencoderKL(**CONFIG).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.05)
    generator = torch.Generator().manual_seed(0)
    images = torch.cat([load_shard(p)[0]["images"].flatten(0, 1) for p in sorted((run / "shards").glob("*.safetensors"))[:8]])
    log = (run / "vae.jsonl").open("a")
    start = time.time()
    for step in range(steps):
        x = images[torch.randint(len(images), (batch,), generator=generator)].movedim(-1, 1).float() / 127.5 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
            out = vae.decode(latents).sample
        out = out.float()
        # Solids cover a tenth of the picture: weigh what is not background up, so that edges and shading count.
        weight = 1 + 4 * ((x - x[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.05)
        error = (weight * ((out - x) ** 2 + 0.2 * (out - x).abs())).mean()
        edges = sum(F.l1_loss(out.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
        kl = posterior.kl().mean() / latents[0].numel()
        loss = error + 0.5 * edges + 1e-4 * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            psnr = -10 * torch.log10(((out - x) ** 2).mean() / 4).item()
            row = {"step": step, "seconds": time.time() - start, "loss": loss.item(), "psnr": psnr, "kl": kl.item()}
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(row, flush=True)
    return vae.eval()


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
def encode_shards(run: Path, vae: AutoencoderKL) -> None:
    """Write posterior means `[n, 4, 4, 16, 16]` fp16 of every shard that has none yet, with cameras and prompts."""
    folder = run / "latents"
    folder.mkdir(exist_ok=True)
    for path in sorted((run / "shards").glob("*.safetensors")):
        if (folder / path.name).exists():
            continue
        tensors, prompts = load_shard(path)
        flat = tensors["images"].flatten(0, 1).movedim(-1, 1)
        latents = []
        for chunk in flat.split(256):
            with torch.autocast("cpu", torch.bfloat16):
                x = (chunk.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
                latents.append(vae.encode(x).latent_dist.mean.half())
        stacked = torch.cat(latents).unflatten(0, (-1, 4)).contiguous()
        save_file({"latents": stacked, "c2w": tensors["c2w"]}, folder / path.name, {"prompts": json.dumps(prompts)})
        print("encoded", path.name, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    target = args.run / "vae"
    if target.exists():
        vae = AutoencoderKL.from_pretrained(target).eval()
    else:
        vae = train(args.run, args.steps)
        first, _ = load_shard(min((args.run / "shards").glob("*.safetensors")))
        fold_normalisation(vae, first["images"][:256].flatten(0, 1).movedim(-1, 1).float() / 127.5 - 1)
        vae.save_pretrained(target)
    encode_shards(args.run, vae.to(memory_format=torch.channels_last))


if __name__ == "__main__":
    main()
