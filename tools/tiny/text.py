"""The tiny model's tokenizer and text encoder: stock CLIP classes over some sixty words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .scenes import VOCABULARY
from .toys import SOLIDS

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77
WIDTH = 128


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write CLIP's tokenizer files for `VOCABULARY` into `folder`; every word of it but "3d" becomes one token.

    The trainer numbers tokens of equal rank by chance, so they are numbered anew by their spelling: weights that were trained
    in one process mean the same in the next.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=1, special_tokens=[START, END], end_of_word_suffix="</w>", show_progress=False
    )
    pieces = re.findall(r"[a-z]+|[0-9]|[^a-z0-9]", " ".join(VOCABULARY))  # as CLIP's own pattern splits: "3d" is two
    bpe.train_from_iterator([" ".join(pieces)], trainer)
    state = json.loads(bpe.to_str())["model"]
    folder.mkdir(parents=True, exist_ok=True)
    special, others = (START, END), sorted(state["vocab"].keys() - {START, END})
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate((*special, *others))}))
    merges = [" ".join(m) if isinstance(m, list) else m for m in state["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )
    for word in VOCABULARY:
        if word != "3d" and len(tokenizer(word).input_ids) != 3:
            raise RuntimeError(f"the word {word!r} is not one token: {tokenizer.tokenize(word)}")
    return tokenizer


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@torch.no_grad()
def start_tokens_from(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, given: CLIPTextModel, its: CLIPTokenizer) -> None:
    """All of `given`'s weights, the token embeddings by their spelling; what it has no token for starts at the nouns' mean."""
    own, old = encoder.state_dict(), given.state_dict()
    name = next(n for n in own if n.endswith("token_embedding.weight"))
    rows, numbers = old[name], its.get_vocab()
    start = torch.stack([rows[numbers[f"{noun}</w>"]] for noun in SOLIDS]).mean(0)
    embeddings = torch.stack(
        [
            rows[numbers[token]] if token in numbers else start + rows.std(0) * torch.randn(len(start)) / 2
            for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        ]
    )
    encoder.load_state_dict(old | {name: embeddings})


def embed(text_encoder: CLIPTextModel, token_ids: torch.Tensor) -> torch.Tensor:
    """`[n, 77]` token ids to `[n, 77, C]`, what follows the end token replaced by the start token's embedding."""
    embeddings = text_encoder(token_ids, return_dict=True).last_hidden_state
    is_end = token_ids == text_encoder.config.eos_token_id
    after_end = (is_end.cumsum(1) - is_end.int()) > 0
    return torch.where(after_end[..., None], embeddings[:, :1], embeddings)
