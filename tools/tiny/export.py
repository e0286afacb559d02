"""Stage 4: write the averaged weights as a bundle that `load_mvdream` reads.

python -m tools.tiny.export --run RUN --out gd_core/weights/tiny
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler

from gd_core.diffusion.bundle import save_bundle, tiny_recipe
from gd_core.diffusion.model import MVDream, MVDreamConfig

from .data import IMAGE_SIZE
from .scenes import VOCABULARY
from .unet import GEOMETRY, SCHEDULER_CONFIG, SUFFIX, load_averaged


def assemble(run: Path) -> MVDream:
    trained = load_averaged(run)
    config = MVDreamConfig(
        name="tiny MVDream (toys and coloured solids)",
        prompt_suffix=SUFFIX,
        image_size=IMAGE_SIZE,
        fov_y_deg=GEOMETRY["fov_y_deg"],
        distance=GEOMETRY["distance"],
        text_padding="start",
        vocabulary=VOCABULARY,
        ray_geometry=GEOMETRY,
    )
    return MVDream(
        unet=trained.unet,
        vae=AutoencoderKL.from_pretrained(run / "vae").eval(),
        text_encoder=trained.text_encoder,
        tokenizer=trained.tokenizer,
        scheduler=DDIMScheduler(**SCHEDULER_CONFIG),
        config=config,
        recipe=tiny_recipe().for_other_weights(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    save_bundle(assemble(args.run), args.out, dtype=torch.float16)


if __name__ == "__main__":
    main()
