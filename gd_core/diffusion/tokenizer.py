"""CLIP's tokenizer, offline.

`data/clip_merges.txt.gz` holds the byte-pair merges of OpenAI's CLIP, which every Stable Diffusion text encoder reads, as
open_clip_torch distributes them (MIT licence, see `data/LICENSE`). The vocabulary follows from the merges.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer, CLIPTokenizerFast

_MERGES = Path(__file__).parent / "data" / "clip_merges.txt.gz"
START_TOKEN, END_TOKEN = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77


def clip_tokenizer(pad_token: str = END_TOKEN) -> CLIPTokenizerFast:
    """The tokenizer of Stable Diffusion. SD 1.5 pads with the end token; OpenCLIP, and so SD 2.1, with id 0, which is "!"."""
    merges = gzip.decompress(_MERGES.read_bytes()).decode("utf-8")
    # Bytes in CLIP's order, printable ones as themselves; then the same at the end of a word; then what each merge makes.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    characters = [chr(byte) for byte in printable] + [chr(256 + k) for k in range(256 - len(printable))]
    merged = [line.replace(" ", "") for line in merges.splitlines()[1:]]
    vocabulary = [*characters, *(f"{c}</w>" for c in characters), *merged, START_TOKEN, END_TOKEN]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(vocabulary)}), encoding="utf-8")
        Path(folder, "merges.txt").write_text(merges, encoding="utf-8")
        tokenizer = CLIPTokenizerFast.from_pretrained(folder, model_max_length=MAX_TOKENS)
    tokenizer.pad_token_id = tokenizer.convert_tokens_to_ids(pad_token)
    return tokenizer


def load_tokenizer(folder: Path) -> CLIPTokenizerFast:
    """A CLIP tokenizer from its files in `folder`."""
    tokenizer = CLIPTokenizerFast.from_pretrained(folder)
    pad_token = tokenizer.pad_token
    if pad_token != END_TOKEN:
        # Announced as special, a padding token such as SD 2.1's "!" would be cut out of the middle of prompts.
        tokenizer = CLIPTokenizerFast.from_pretrained(folder, pad_token=END_TOKEN)
        tokenizer.pad_token_id = tokenizer.convert_tokens_to_ids(pad_token)
    return tokenizer


def save_tokenizer(tokenizer: CLIPTokenizer | CLIPTokenizerFast, folder: Path) -> None:
    """`vocab.json`, `merges.txt` and `tokenizer_config.json`: the form that every release of transformers reads."""
    folder.mkdir(parents=True)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.model.save(str(folder))
    else:  # transformers 4's `CLIPTokenizer`, which a model that was not loaded by us may have
        tokenizer.save_vocabulary(str(folder))
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "unk_token": tokenizer.unk_token,
        "pad_token": tokenizer.pad_token,
        "model_max_length": tokenizer.model_max_length,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
