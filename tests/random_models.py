"""Small multi-view models of the real classes with seeded random weights, for tests that need every part of an `MVDream`."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from gd_core.diffusion.card import TINY
from gd_core.diffusion.model import MVDream, MVDreamConfig
from gd_core.diffusion.multiview import RayGeometry, install_multiview_attention
from gd_core.recipe import Recipe
from gd_core.settings.sampling import SamplingConfig

WIDTH = 32
MERGED_WORDS = ("a", "red", "blue", "green", "cube", "sphere", "and", "big", "asset", "to", "the")
TINY_RECIPE = Recipe.from_json(json.loads((TINY / "mvdream.json").read_text())["recipe"])
QUICK_RECIPE = replace(TINY_RECIPE.for_other_weights(), sampling=SamplingConfig(steps=4, guidance_scale=3.0))
GEOMETRY = {"fov_y_deg": 40.0, "distance": 3.0}


def word_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer with merges for `MERGED_WORDS` only: any other word splits into letters."""
    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in MERGED_WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = ["".join(pieces[:2])]
            vocabulary.append(pieces[0])
    vocabulary, merges = dict.fromkeys(vocabulary), dict.fromkeys(merges)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


def random_unet(geometry: dict | None = None) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
    )
    install_multiview_attention(unet, RayGeometry(**geometry) if geometry else None)
    return unet


def random_mvdream(
    folder: Path, *, prediction_type: str = "v_prediction", recipe: Recipe = QUICK_RECIPE, **config
) -> MVDream:
    """64 px views, 16x16 latents, one attention resolution (8x8 tokens). `config`: fields of `MVDreamConfig`."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(folder)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False,
        clip_sample=False, prediction_type=prediction_type,
    )  # fmt: skip
    config = MVDreamConfig(**{"name": "random MVDream", "image_size": 64, **config})
    unet = random_unet(config.ray_geometry)
    return MVDream(unet.eval(), vae.eval(), text_encoder.eval(), tokenizer, scheduler, config, recipe)
