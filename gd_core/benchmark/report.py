"""A run, or several side by side, as `report.json` and a page `report.html` that needs nothing but itself."""

from __future__ import annotations

import base64
import io
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from .. import __version__
from ..devices import describe as describe_device
from ..devices import resolve_device
from ..files import write_text
from ..metrics.scorecard import Metric, describe, report_order
from .charts import number, shown
from .items import load_item
from .page import diversity_beside_alignment, render_page
from .prompt_sets import PromptSet
from .runner import Item, Plan, item_folder, write_json
from .scoring import Scores
from .statistics import Estimate, paired_difference

FORMAT = "grounded-dreamer-report"
PICTURE_HEIGHT = 96
PICTURES = 4  # views of an item in the page


@dataclass
class Run:
    """One column of a report: a name, the folder that it was made in, and its scores."""

    name: str
    plan: Plan
    out: Path
    scores: Scores


def write_report(folder: Path, title: str, prompts: PromptSet, items: Sequence[Item], runs: Sequence[Run]) -> dict:
    """Write `report.json` and `report.html` into `folder` and return what the JSON holds.

    Args:
        runs: one, or several of the same items, of which all but the first are compared with the first.

    Raises:
        ValueError: no run.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    data = {
        "format": FORMAT,
        "version": 1,
        "title": title,
        "set": {"name": prompts.name, "title": prompts.title, "description": prompts.description, "prompts": len(prompts)},
        "seeds": sorted({item.seed for item in items}),
        "environment": environment(),
        "metrics": {name: asdict(metric) for name, metric in _metrics(runs).items()},
        "runs": [_run_json(run) for run in runs],
        "comparisons": [_comparison(runs[0], run) for run in runs[1:]],
    }
    write_json(folder / "report.json", _without_nan(data))
    page = render_page(data, _gallery(items, runs))
    write_text(folder / "report.html", page)
    return data


def _metrics(runs: Sequence[Run]) -> dict[str, Metric]:
    """What each number of the runs is, in the report's order."""
    values: dict[str, list] = {}
    for record in (record for run in runs for record in (*run.scores.items, *run.scores.prompts)):
        for name, value in record["numbers"].items():
            values.setdefault(name, []).append(value)
    return {name: describe(name, values[name]) for name in sorted(values, key=report_order)}


def environment() -> dict[str, str]:
    return {
        "grounded_dreamer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": describe_device(resolve_device()),
    }


def _run_json(run: Run) -> dict:
    summary = {
        name: {group: asdict(estimate) for group, estimate in groups.items()}
        for name, groups in run.scores.summary().items()
    }
    return {
        "name": run.name,
        "plan": asdict(run.plan),
        "summary": summary,
        "whole": run.scores.whole,
        "failed": run.scores.failed,
        "notes": run.scores.notes,
        "items": run.scores.items,
        "prompts": run.scores.prompts,
    }


def _comparison(first: Run, other: Run) -> dict:
    """Paired over the items (prompts, for diversity) that both runs finished."""
    table = {}
    for kind in ("items", "prompts"):
        ours, theirs = ({(r["id"], r.get("seed")): r for r in getattr(run.scores, kind)} for run in (first, other))
        shared = [key for key in ours if key in theirs]
        names = dict.fromkeys(name for key in shared for name in ours[key]["numbers"])
        for name in names:
            both = [k for k in shared if _measured(ours[k], name) and _measured(theirs[k], name)]
            if not both:
                continue
            a, b = ([float(side[k]["numbers"][name]) for k in both] for side in (ours, theirs))
            table[name] = asdict(paired_difference(a, b, [key[0] for key in both]))
    return {"from": first.name, "to": other.name, "metrics": table}


def _measured(record: dict, name: str) -> bool:
    value = record["numbers"].get(name)
    return value is not None and math.isfinite(value)


def _gallery(items: Sequence[Item], runs: Sequence[Run]) -> list[dict]:
    """For each item its prompt and, for each run, a picture and numbers; None where the run has not made it."""
    gallery = []
    for item in items:
        row = {"prompt": item.prompt.text, "group": item.prompt.group, "seed": item.seed, "runs": []}
        for run in runs:
            path = item_folder(run.out, item)
            record = next((r for r in run.scores.items if (r["id"], r["seed"]) == (item.prompt.id, item.seed)), None)
            if record is None or not path.is_dir():
                row["runs"].append(None)
                continue
            row["runs"].append({"picture": picture(load_item(path).images), "numbers": record["numbers"]})
        gallery.append(row)
    return gallery


def picture(images: UInt8[Tensor, "V H W 3"]) -> str:
    """Up to four of the views in a row as a JPEG data URI."""
    data = io.BytesIO()
    strip(images).save(data, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def strip(images: UInt8[Tensor, "V H W 3"]) -> Image.Image:
    """Up to four of the views in a row, at most `PICTURE_HEIGHT` high."""
    chosen = images[:: max(1, len(images) // PICTURES)][:PICTURES]
    row = Image.fromarray(torch.cat(list(chosen), dim=1).numpy())
    if row.height > PICTURE_HEIGHT:
        row = row.resize((round(row.width * PICTURE_HEIGHT / row.height), PICTURE_HEIGHT), Image.Resampling.LANCZOS)
    return row


def _without_nan(data):
    """JSON has no NaN: what was not measurable is null."""
    return json.loads(json.dumps(data), parse_constant=lambda _: None)


def write_small_report(path: Path, data: dict, items: Sequence[Item], runs: Sequence[Run], command: str) -> None:
    """A report small enough to commit: `path` with .md (tables), .json (numbers without the items) and .jpg (some items).

    Args:
        command: what made it, for whoever wants to make it again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    small = {key: value for key, value in data.items() if key != "runs"}
    small["runs"] = [{k: v for k, v in run.items() if k not in ("items", "prompts")} for run in data["runs"]]
    write_json(path.with_suffix(".json"), _without_nan(small))
    _contact_sheet(items, runs).save(path.with_suffix(".jpg"), "JPEG", quality=88)
    failed = sum(len(run["failed"]) for run in data["runs"])
    text = [
        f"# {data['title']}\n",
        f"{data['set']['prompts']} prompts of `{data['set']['name']}`, seeds {', '.join(map(str, data['seeds']))}, model "
        f"`{data['runs'][0]['plan']['model']}`, {failed} failed items. 95 % intervals.\n",
        f"    {command}\n",
        markdown_table(data),
        *(_markdown_comparison(comparison, data["metrics"]) for comparison in data["comparisons"]),
        *_markdown_diversity(data),
        *dict.fromkeys(note + "\n" for run in data["runs"] for note in run["notes"]),
        f"Rows: prompts. Columns: {', '.join(run.name for run in runs)}.\n",
        f"![some of the items]({path.with_suffix('.jpg').name})\n",
    ]
    path.with_suffix(".md").write_text("\n".join(text), encoding="utf-8")


def _contact_sheet(items: Sequence[Item], runs: Sequence[Run], rows: int = 10, gap: int = 6) -> Image.Image:
    """Evenly chosen items that every run has made, one a row, the runs side by side."""
    shared = [item for item in items if all(item_folder(run.out, item).is_dir() for run in runs)]
    chosen = shared[:: max(1, math.ceil(len(shared) / rows))]
    strips = [[strip(load_item(item_folder(run.out, item)).images) for run in runs] for item in chosen]
    if not strips:
        return Image.new("RGB", (64, 64), "white")
    width, height = strips[0][0].size
    sheet = Image.new("RGB", ((width + gap) * len(runs) - gap, (height + gap) * len(strips) - gap), "#8b95a5")
    for y, row in enumerate(strips):
        for x, one in enumerate(row):
            sheet.paste(one, (x * (width + gap), y * (height + gap)))
    return sheet


def _markdown_comparison(comparison: dict, metrics: dict[str, dict]) -> str:
    lines = [
        f"**{comparison['from']} \u2192 {comparison['to']}**, paired over the same prompts and seeds:\n",
        "| metric | change | up | down | p (sign test) |",
        "|---|---|---|---|---|",
    ]
    for name, metric in metrics.items():
        if name in comparison["metrics"]:
            paired = comparison["metrics"][name]
            change = shown(Estimate(**paired["difference"]), metric["is_rate"])
            counts = f"{paired['risen']} | {paired['fallen']} | {paired['p_value']:.3g}"
            lines.append(f"| {metric['label']} | {change} | {counts} |")
    return "\n".join(lines) + "\n"


def _markdown_diversity(data: dict) -> list[str]:
    names, rows = diversity_beside_alignment(data["runs"])
    if not names:
        return []
    labels = [data["metrics"][name]["label"] for name in names]
    lines = ["**Diversity beside alignment**, means over the prompts that have several seeds:\n"]
    lines += ["| run | prompts | " + " | ".join(labels) + " |", "|---" * (len(labels) + 2) + "|"]
    for name, count, values in rows:
        lines.append(f"| {name} | {count} | " + " | ".join("" if v is None else number(v) for v in values) + " |")
    return ["\n".join(lines) + "\n"]


def markdown_table(data: dict) -> str:
    """The report's summary for a README: one row a metric, one column a run, values with 95 % intervals."""
    lines = ["| metric | " + " | ".join(run["name"] for run in data["runs"]) + " |", "|---" * (len(data["runs"]) + 1) + "|"]
    for name, metric in data["metrics"].items():
        groups = [run["summary"].get(name) for run in data["runs"]]
        cells = [shown(Estimate(**group["all"]), metric["is_rate"]) if group else "" for group in groups]
        if any(cells):
            label = f"{metric['label']} ({metric['unit']})" if metric["unit"] else metric["label"]
            lines.append(" | ".join([f"| {label}", *cells]) + " |")
    return "\n".join(lines) + "\n"
