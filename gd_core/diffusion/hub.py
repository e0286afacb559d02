"""A model from the Hugging Face hub: pinned to a revision, resumable, and only when a source asks for it."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

_SOURCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
# Weights, configs and tokenizer files, and of those weights that exist twice the safe ones. Never Python.
_MODEL_FILES = ["*.json", "*.txt", "*.safetensors"]


def is_hub_source(source: str) -> bool:
    """True for `owner/name@revision`."""
    return _SOURCE.fullmatch(source) is not None


def download(source: str) -> Path:
    """The local folder of `owner/name@revision`, downloaded (with a progress bar, going on where it stopped) or cached.

    Raises:
        ValueError: the hub has no such repository or revision.
        ConnectionError: the hub is not reached and the model is not in the cache.
    """
    match = _SOURCE.fullmatch(source)
    repo, revision = match["repo"], match["revision"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=_MODEL_FILES))
    except RevisionNotFoundError as error:
        raise ValueError(f"the hub's {repo} has no revision '{revision}': give a commit hash or tag from its page") from error
    except RepositoryNotFoundError as error:
        raise ValueError(f"the hub has no repository '{repo}', or it needs a login (`hf auth login`)") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConnectionError(
            f"{source} could not be downloaded ({type(error).__name__}) and is not in the cache: check the connection and run "
            "again, it goes on where it stopped"
        ) from error
