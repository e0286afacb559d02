"""CLIP metrics: CLIP score, CLIP R-Precision and minimum-object CLIP, with a CLIP model from the user's own folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..devices import resolve_device

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

# OpenAI CLIP's normalisation (openai/CLIP, `clip.py`), used where a folder has no preprocessor_config.json.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class ClipEncoder:
    """A CLIP model with what it takes to feed it.

    Attributes:
        model: transformers' `CLIPModel`, in eval mode.
        mean, std: three numbers each, applied to RGB in 0..1.
        name: the folder's name, for reports.
    """

    model: CLIPModel
    tokenizer: CLIPTokenizer
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    name: str = "CLIP"

    @property
    def image_size(self) -> int:
        return self.model.config.vision_config.image_size

    def prepare(self, images: Float[Tensor, "N H W 3"]) -> Float[Tensor, "N 3 s s"]:
        """CLIP's preprocessing of RGB images in 0..1: shortest side to the model's size (bicubic), centre crop, normalise."""
        size, (height, width) = self.image_size, images.shape[1:3]
        scaled = (size * height // min(height, width), size * width // min(height, width))
        pixels = F.interpolate(images.movedim(-1, 1).float(), scaled, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
        pixels = pixels[:, :, top : top + size, left : left + size]
        mean, std = (pixels.new_tensor(v)[None, :, None, None] for v in (self.mean, self.std))
        return ((pixels - mean) / std).to(self.model.device, self.model.dtype)

    @torch.no_grad()
    def embed_images(self, images: Float[Tensor, "N H W 3"], batch_size: int = 64) -> Float[Tensor, "N D"]:
        """Unit image embeddings, float32 on the CPU, of RGB images in 0..1."""
        parts = []
        for chunk in self.prepare(images).split(batch_size):
            # get_image_features returns a tensor in transformers 4 and an output object in 5; these two parts are in both
            pooled = self.model.vision_model(pixel_values=chunk).pooler_output
            parts.append(self.model.visual_projection(pooled).float().cpu())
        return F.normalize(torch.cat(parts), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: list[str], batch_size: int = 64) -> Float[Tensor, "T D"]:
        """Unit text embeddings, float32 on the CPU. Text past the model's length (77 tokens) is cut."""
        length = self.model.config.text_config.max_position_embeddings
        parts = []
        for start in range(0, len(texts), batch_size):
            tokens = self.tokenizer(
                texts[start : start + batch_size], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            ).to(self.model.device)
            pooled = self.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
            parts.append(self.model.text_projection(pooled).float().cpu())
        return F.normalize(torch.cat(parts), dim=-1)


def load_clip(folder: str | Path, device: str | torch.device = "auto") -> ClipEncoder:
    """A CLIP model from a folder in transformers' layout; nothing is ever downloaded. `device`: see `devices.resolve_device`.

    Raises:
        ValueError: the folder is missing, is not a CLIP model, or is cut short.
    """
    from transformers import CLIPModel, CLIPTokenizer  # noqa: PLC0415  (seconds to import, and only CLIP metrics need it)

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"no CLIP model in '{folder}': give a folder with config.json, the weights and the tokenizer, as "
            "`hf download openai/clip-vit-base-patch32 --local-dir FOLDER` makes it"
        )
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind != "clip":
        raise ValueError(f"the model in '{folder}' is of type '{kind}', not 'clip': CLIP metrics need a CLIPModel")
    try:
        model = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval().requires_grad_(False)
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the CLIP model in '{folder}' does not load, some of its files may be missing: {error}") from error
    preprocessor = folder / "preprocessor_config.json"
    settings = json.loads(preprocessor.read_text(encoding="utf-8")) if preprocessor.is_file() else {}
    return ClipEncoder(
        model.to(resolve_device(device)),
        tokenizer,
        tuple(settings.get("image_mean", CLIP_MEAN)),
        tuple(settings.get("image_std", CLIP_STD)),
        folder.resolve().name,
    )


def clip_score(images: Float[Tensor, "N D"], texts: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """CLIP score of N image-text pairs, 0..100: `100 * max(cos, 0)` (Hessel et al. 2021, in torchmetrics' scale).

    Args:
        images, texts: `[N, D]` embeddings of any length; the i-th image goes with the i-th text.
    """
    return 100 * F.cosine_similarity(images, texts, dim=-1).clamp(min=0)


def clip_r_precision(
    images: Float[Tensor, "N D"], texts: Float[Tensor, "P D"], prompt_of_image: Int[Tensor, " N"], r: int = 1
) -> Bool[Tensor, " N"]:
    """Whether each image finds its own prompt among the first `r` of all P prompts (Park et al. 2021; for text-to-3D, Jain et
    al. 2022, Dream Fields); CLIP R-Precision is the mean. A tie counts against the image, so an encoder that says the same of
    everything scores 0, and chance is `r / P`: numbers of sets of different sizes do not compare.

    Args:
        images: `[N, D]` image embeddings. texts: `[P, D]` embeddings of the whole set's prompts.
        prompt_of_image: `[N]` row of `texts` that each image was made from.

    Raises:
        ValueError: for `r` outside 1..P-1, where the answer would be known beforehand.
    """
    if not 1 <= r < len(texts):
        raise ValueError(f"R-Precision at {r} needs more than {r} prompts to choose from, got {len(texts)}")
    similarity = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    own = similarity.gather(1, prompt_of_image[:, None])
    others_at_least_as_near = (similarity >= own).sum(1) - 1
    return others_at_least_as_near < r


def minimum_object_clip(images: Float[Tensor, "V D"], subjects: Float[Tensor, "S D"]) -> tuple[float, int]:
    """CLIP score, 0..100, of the worst-served subject, and which it is most often: the minimum over subjects in each view, then
    the mean over views (Chefer et al. 2023, Attend-and-Excite, "minimum object similarity"). A subject that hides behind
    another in a view counts against it there."""
    similarity = 100 * (F.normalize(images, dim=-1) @ F.normalize(subjects, dim=-1).T).clamp(min=0)
    worst = similarity.min(1)
    return float(worst.values.mean()), int(worst.indices.mode().values)
