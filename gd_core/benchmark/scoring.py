"""From a run's folder to numbers: CLIP, the judge, diversity over seeds, FID and KID, each with its interval."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..metrics.alignment import Captioner, CaptionJudge, caption_alignment
from ..metrics.clip import ClipEncoder, clip_r_precision
from ..metrics.consistency import opposite_view_correlation
from ..metrics.diversity import chamfer_diversity, cosine_diversity, image_diversity
from ..metrics.scorecard import Judge, clip_numbers, describe, is_alignment, judged
from .items import SavedItem, load_item
from .protocols import attend_excite_numbers, check_pictures, described, finds_its_prompt, halves
from .runner import Item, failure_file, item_folder
from .statistics import Estimate, bootstrap_mean, wilson_interval

INCEPTION = "Inception v3 (2048)"


@dataclass
class Scorers:
    """What numbers are asked for beside those that every item has. All optional, all the user's own.

    Attributes:
        clip: CLIP score, R-Precision, minimum-object CLIP, the Janus proxy, embedding diversity.
        judge: verdicts on an item's pictures.
        captioner, caption_judge: T3-style alignment; both or neither.
        reference: images `[n, H, W, 3]`, 0..1, to be near to, and features: FID and KID. feature_name: of the network, for the
            report. FID's usual reference in text-to-3D is a text-to-image model's pictures of the same prompts.
        protocol: a name of `protocols.PROTOCOLS`: its numbers in place of this pack's own.
        pool: prompts that its R-Precision chooses from; without any, all that are scored.
    """

    clip: ClipEncoder | None = None
    judge: Judge | None = None
    captioner: Captioner | None = None
    caption_judge: CaptionJudge | None = None
    reference: Tensor | None = None
    features: Callable[[Tensor], Tensor] | None = None
    feature_name: str = ""
    protocol: str | None = None
    pool: Sequence[str] = ()


@dataclass
class Scores:
    """The numbers of one run; JSON by `as_json`.

    Attributes:
        items: one record an item: prompt, id, group, subjects, seed, `numbers`, `resources`.
        prompts: one record a prompt that has several seeds: id, text, group and its diversity numbers.
        failed: item key -> what went wrong.
        whole: numbers that only the whole set has (FID, KID, correlation of opposite views).
        notes: what was not measured, and why.
    """

    items: list[dict]
    prompts: list[dict] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    whole: dict[str, float | str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, dict[str, Estimate]]:
        """Metric -> group -> estimate, over items (or over prompts, for diversity); group "all" is everything."""
        table: dict[str, dict[str, Estimate]] = {}
        for records in (self.items, self.prompts):
            for name in _names(records):
                measured = [r for r in records if r["numbers"].get(name) is not None and math.isfinite(r["numbers"][name])]
                groups = {"all": measured} if measured else {}
                for record in measured:
                    groups.setdefault(record["group"], []).append(record)
                if len(groups) == 2:  # one group is everything
                    groups = {"all": measured}
                table[name] = {group: _estimate(name, members) for group, members in groups.items()}
        return {name: groups for name, groups in table.items() if groups}


def _names(records: list[dict]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record["numbers"]))


def _estimate(name: str, records: list[dict]) -> Estimate:
    values = [record["numbers"][name] for record in records]
    if describe(name, values).is_rate:
        return wilson_interval(sum(map(bool, values)), len(values))
    return bootstrap_mean([float(value) for value in values], [record["id"] for record in records])


def score_run(out: Path, items: Sequence[Item], scorers: Scorers | None = None) -> Scores:
    """Score every finished item among `items` of the run in `out`; the same folder and scorers give the same numbers.

    Raises:
        ValueError: nothing is finished; a scorer's answer that is out of its range; only one of captioner and judge.
    """
    scorers = scorers or Scorers()
    if (scorers.captioner is None) != (scorers.caption_judge is None):
        raise ValueError("T3-style alignment needs both a captioner and a caption judge")
    saved = {item: load_item(item_folder(out, item)) for item in items if item_folder(out, item).is_dir()}
    if not saved:
        raise ValueError(f"no finished item in '{out}': nothing to score")
    scores = Scores([item.record for item in saved.values()])
    for item in items:
        if failure_file(out, item).is_file():
            scores.failed[item.key] = json.loads(failure_file(out, item).read_text(encoding="utf-8"))["error"]
    if scorers.protocol is None:
        embeddings = _add_clip(saved, scores, scorers.clip)
    else:
        embeddings = _add_protocol(saved, scores, scorers)
    alignment = {"t3bench": "t3bench_alignment", "paper": "paper_alignment"}.get(scorers.protocol, "caption_alignment")
    for one in saved.values():
        one.record["numbers"] |= one.record["resources"]
        if scorers.judge is not None:
            one.record["numbers"] |= judged(scorers.judge, one.images.float() / 255, one.record["prompt"])
        if scorers.captioner is not None:
            made = caption_alignment(one.images.float() / 255, one.record["prompt"], scorers.captioner, scorers.caption_judge)
            one.record["numbers"][alignment], one.record["captions"] = made.score, made.captions
    _add_diversity(saved, scores, embeddings)
    _add_whole(saved, scores, scorers)
    return scores


def _add_clip(saved: dict[Item, SavedItem], scores: Scores, clip: ClipEncoder | None) -> dict[Item, Tensor]:
    """CLIP's numbers into every record; returns the views' embeddings `[V, D]` by item."""
    if clip is None:
        scores.notes.append("CLIP metrics were not measured: no CLIP folder was given (--clip).")
        return {}
    texts = list(dict.fromkeys(one.record["prompt"] for one in saved.values()))
    pool = clip.embed_texts(texts)
    embeddings = {}
    for item, one in saved.items():
        record = one.record
        seen = embeddings[item] = clip.embed_images(one.images.float() / 255)
        record["numbers"] |= clip_numbers(clip, seen, record["prompt"], record["subjects"])
        if len(texts) > 1:
            own = torch.full((len(seen),), texts.index(record["prompt"]))
            record["numbers"]["clip_r_precision"] = float(clip_r_precision(seen, pool, own).float().mean())
    if len(texts) > 1:
        scores.whole["r_precision_pool"] = len(texts)
    else:
        scores.notes.append("CLIP R-Precision was not measured: it needs two prompts or more to choose from.")
    return embeddings


def _add_protocol(saved: dict[Item, SavedItem], scores: Scores, scorers: Scorers) -> dict[Item, Tensor]:
    """The protocol's CLIP numbers into every record; returns the pictures' embeddings `[V, D]` by item, if it has a CLIP."""
    name, clip = scorers.protocol, scorers.clip
    for item, one in saved.items():
        check_pictures(name, len(one.images), item.key)
    scores.notes.append(described(name, clip))
    if clip is None:
        return {}
    embeddings = {item: clip.embed_images(one.images.float() / 255) for item, one in saved.items()}
    if name == "attend-excite":
        for item, one in saved.items():
            one.record["numbers"] |= attend_excite_numbers(clip, embeddings[item], one.record["prompt"])
        without = [item.key for item in saved if halves(item.prompt.text) is None]
        if without:
            scores.notes.append(f"{len(without)} items have no 'and' or 'with' in their prompt and were left out, as there.")
    if name in ("dreamfields", "paper"):
        own = list(dict.fromkeys(item.prompt.text for item in saved))
        prompts = list(dict.fromkeys(scorers.pool or own))
        pool, of_own = clip.embed_texts(prompts), dict(zip(own, clip.embed_texts(own), strict=True))
        for item, one in saved.items():
            found = finds_its_prompt(embeddings[item], pool, prompts, item.prompt.text, of_own[item.prompt.text])
            value = bool(found[0]) if name == "dreamfields" else float(found.float().mean())
            one.record["numbers"][f"{name}_r_precision"] = value
        scores.whole["r_precision_pool"] = len(prompts)
    return embeddings


def _add_diversity(saved: dict[Item, SavedItem], scores: Scores, embeddings: dict[Item, Tensor]) -> None:
    by_prompt: dict[str, list[Item]] = {}
    for item in saved:
        by_prompt.setdefault(item.prompt.id, []).append(item)
    for of_prompt in by_prompt.values():
        if len(of_prompt) < 2:
            continue
        images = torch.stack([saved[item].images.float() / 255 for item in of_prompt])
        numbers = {"image_diversity": image_diversity(images)}
        if embeddings:
            numbers["embedding_diversity"] = cosine_diversity(torch.stack([embeddings[item].mean(0) for item in of_prompt]))
        clouds = [saved[item].points for item in of_prompt]
        if all(cloud is not None for cloud in clouds):
            numbers["chamfer_diversity"] = chamfer_diversity(clouds)
        prompt = of_prompt[0].prompt
        records = [saved[item].record["numbers"] for item in of_prompt]
        shared = [name for name in records[0] if is_alignment(name) and all(name in r for r in records)]
        beside = {name: sum(float(record[name]) for record in records) / len(records) for name in shared}
        scores.prompts.append(
            {"id": prompt.id, "prompt": prompt.text, "group": prompt.group, "numbers": numbers, "alignment": beside}
        )
    if scores.prompts:
        if not embeddings:
            scores.notes.append("Embedding diversity was not measured: it needs an image model (--clip).")
        if not any("chamfer_diversity" in record["numbers"] for record in scores.prompts):
            scores.notes.append("Chamfer diversity was not measured: it compares surfaces, and these items have none.")
    else:
        scores.notes.append("Diversity was not measured: it compares the seeds of a prompt, and each has one (--seeds 0 1 2).")


def _add_whole(saved: dict[Item, SavedItem], scores: Scores, scorers: Scorers) -> None:
    layouts = [pair for one in saved.values() for pair in one.record["layout"] or []]
    correlation = opposite_view_correlation(torch.tensor(layouts).reshape(-1, 2))
    if math.isfinite(correlation):
        scores.whole["opposite_view_correlation"] = correlation
    if scorers.reference is None:
        scores.notes.append("FID and KID were not measured: no reference images were given (--reference).")
        return
    from ..metrics.distribution import fid, kid  # noqa: PLC0415  (torchmetrics is an optional extra)

    images = torch.cat([one.images for one in saved.values()]).float() / 255
    as_paper = scorers.protocol == "paper" and scorers.feature_name == INCEPTION
    scores.whole["paper_fid" if as_paper else "fid"] = fid(images, scorers.reference, scorers.features)
    scores.whole["kid"], scores.whole["kid_deviation"] = kid(images, scorers.reference, scorers.features)
    scores.whole["distribution_features"] = scorers.feature_name
    scores.notes.append(
        f"FID and KID: {len(images)} images against {len(scorers.reference)}, features {scorers.feature_name}; they compare "
        "only with numbers of the same features, and FID of few images is biased upwards."
    )
