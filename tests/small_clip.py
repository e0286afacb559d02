"""A small CLIP model with seeded weights in a folder, as a user's would be."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

WORDS = "a red blue green cube sphere cone next to the front side back view of and".split()


def word_pieces() -> tuple[list[str], list[str]]:
    """A CLIP vocabulary and merges under which every word of `WORDS` is one token."""
    vocabulary, merges = ["<|startoftext|>", "<|endoftext|>"], ["#version: 0.2"]
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        vocabulary += parts
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.append(parts[0])
    return list(dict.fromkeys(vocabulary)), list(dict.fromkeys(merges))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    vocabulary, merges = word_pieces()
    text = {
        "vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 24, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 24, "tokenizer_class": "CLIPTokenizer"}))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.2, 0.3], "size": {"shortest_edge": 32}})
    )
    return folder
