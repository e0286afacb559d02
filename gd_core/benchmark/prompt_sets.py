"""Prompt sets: the benchmark's own, and files that a user brings.

The benchmark's sets are JSON files in `prompts/`, all of our own writing:

| name | prompts | what it asks |
|---|---|---|
| `compositional` | 100 | two subjects, in the paper's two halves: 50 objects, 50 animals |
| `many_subjects` | 50 | three to ten subjects: the paper's first open question |
| `abstract` | 20 | nothing that can be seen: the paper's third open question |
| `tiny` | 80 | one, two and three coloured solids: the bundled tiny model's closed vocabulary |
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

BUNDLED = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class Prompt:
    """One line of a set.

    Attributes:
        id: unique in the set, fit for a folder's name.
        text: what the model is asked for.
        subjects: the phrases of `text` that must each be seen; empty when the set does not say.
        group: the part of the set it belongs to ("objects", "two subjects"); reports give numbers for each.
    """

    id: str
    text: str
    subjects: tuple[str, ...] = ()
    group: str = "all"


@dataclass(frozen=True)
class PromptSet:
    """A named list of prompts, no two alike."""

    name: str
    title: str
    description: str
    prompts: tuple[Prompt, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def head(self, count: int) -> PromptSet:
        """A smaller set that still has every group: `count` prompts, drawn evenly over the groups and in their order."""
        if not 0 < count <= len(self.prompts):
            raise ValueError(f"prompt set '{self.name}' has {len(self.prompts)} prompts, {count} were asked for")
        by_group: dict[str, list[Prompt]] = {}
        for prompt in self.prompts:
            by_group.setdefault(prompt.group, []).append(prompt)
        rank = {p.id: (i / len(members), p.id) for members in by_group.values() for i, p in enumerate(members)}
        kept = set(sorted(rank, key=rank.get)[:count])
        return PromptSet(self.name, self.title, self.description, tuple(p for p in self.prompts if p.id in kept))

    def only(self, group: str) -> PromptSet:
        """The prompts of one group."""
        kept = tuple(prompt for prompt in self.prompts if prompt.group == group)
        if not kept:
            groups = ", ".join(dict.fromkeys(prompt.group for prompt in self.prompts))
            raise ValueError(f"prompt set '{self.name}' has no group '{group}': it has {groups}")
        return PromptSet(self.name, self.title, self.description, kept)


def bundled_sets() -> list[str]:
    """Names of the sets that come with the pack."""
    return sorted(path.stem for path in BUNDLED.glob("*.json"))


def load_prompts(source: str | Path) -> PromptSet:
    """A bundled set by its name, or a file.

    Args:
        source: `"compositional"`, `"many_subjects"`, `"abstract"`, `"tiny"`; or a `.txt` file with one prompt a line; or a
            `.json` file of the bundled sets' form (`name`, `title`, `description`, `prompts`: objects with `text` and, where
            known, `id`, `subjects`, `group`).

    Raises:
        ValueError: no such set or file; blank or duplicate prompts (with their lines); a subject that is not in its prompt.
    """
    if str(source) in bundled_sets():
        return _from_json(BUNDLED / f"{source}.json")
    path = Path(source)
    if path.suffix not in (".txt", ".json") or not path.is_file():
        raise ValueError(
            f"no prompt set '{source}': give one of {', '.join(bundled_sets())}, or an existing file, "
            ".txt with one prompt a line or .json"
        )
    return _from_json(path) if path.suffix == ".json" else _from_text(path)


def _from_text(path: Path) -> PromptSet:
    lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    prompts = [Prompt(f"line-{number:03d}", " ".join(line.split())) for number, line in enumerate(lines, 1)]
    return _checked(PromptSet(path.stem, path.stem, f"{len(prompts)} prompts from {path.name}", tuple(prompts)), path, "line")


def _from_json(path: Path) -> PromptSet:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        prompts = tuple(
            Prompt(
                id=str(entry.get("id", f"prompt-{number:03d}")),
                text=" ".join(entry["text"].split()),
                subjects=tuple(entry.get("subjects", ())),
                group=str(entry.get("group", "all")),
            )
            for number, entry in enumerate(data["prompts"], 1)
        )
        name = data.get("name", path.stem)
        made = PromptSet(name, data.get("title", name), data.get("description", ""), prompts)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"prompt file {path} is not of the form {{'prompts': [{{'text': ...}}, ...]}}: {error!r}") from error
    return _checked(made, path, "prompt")


def _checked(made: PromptSet, path: Path, unit: str) -> PromptSet:
    """`made`, once nothing in it spoils a benchmark: a duplicate makes retrieval ambiguous, a blank line asks for nothing."""
    blank = [number for number, prompt in enumerate(made.prompts, 1) if not prompt.text]
    if blank or not made.prompts:
        where = f"{unit} {', '.join(map(str, blank))} of {path} blank" if blank else f"{path} empty"
        raise ValueError(f"blank prompts: {where}; remove what is blank or write a prompt there")
    for what in ("text", "id"):
        first: dict[str, int] = {}
        for number, prompt in enumerate(made.prompts, 1):
            key = getattr(prompt, what).casefold()
            if key in first:
                raise ValueError(
                    f"{unit} {number} of {path} repeats {unit} {first[key]}: the same {what} '{getattr(prompt, what)}'; "
                    "remove one, or use --seeds to run a prompt several times"
                )
            first[key] = number
    for number, prompt in enumerate(made.prompts, 1):
        missing = [subject for subject in prompt.subjects if subject not in prompt.text]
        if missing:
            raise ValueError(f"{unit} {number} of {path}: subject '{missing[0]}' is not in the prompt '{prompt.text}'")
        if not prompt.id.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"{unit} {number} of {path}: the id '{prompt.id}' may hold letters, digits, - and _ only")
    return made
