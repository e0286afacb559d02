"""The report's HTML: one file with its style, plots and pictures inside, readable without scripts or a network."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from ..metrics.scorecard import Metric
from .charts import SERIES, histogram, interval_chart, number, percent
from .statistics import Estimate

STYLE = Path(__file__).with_name("page.css")
HEADLINES = (
    "clip_r_precision", "clip_score", "minimum_object_clip", "caption_alignment", "silhouette_coherence", "psnr",
    "image_diversity", "seconds",
)  # fmt: skip
WHOLE = {
    "fid": ("FID", "lower is better"),
    "paper_fid": ("FID, protocol paper", "lower is better; against a text-to-image model's pictures of the same prompts"),
    "kid": ("KID", "lower is better"),
    "kid_deviation": ("KID, deviation over subsets", ""),
    "distribution_features": ("FID and KID features", ""),
    "opposite_view_correlation": ("Correlation of opposite views", "-1 when the views agree, 0 when each is drawn for itself"),
    "r_precision_pool": ("Prompts that R-Precision chooses from", ""),
}


def render_page(data: dict, gallery: list[dict]) -> str:
    """The page of `report.write_report`'s data; `gallery` has the pictures, which the JSON leaves out."""
    runs = data["runs"]
    measured = {name for run in runs for name in run["summary"]}
    metrics = {name: Metric(**metric) for name, metric in data["metrics"].items() if name in measured}
    sections = [
        _header(data),
        _tiles(runs[0], metrics) if len(runs) == 1 else _comparisons(data, metrics),
        _charts(runs, metrics),
        _table(runs, metrics),
        _diversity(runs, metrics),
        _whole(runs),
        _failures(runs),
        _gallery(gallery, runs, metrics),
        _method(data),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(data['title'])}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _form(value: float, metric: Metric) -> str:
    return percent(value) if metric.is_rate else number(value)


def _key(index: int, name: str) -> str:
    return f'<span class="key" style="background:{SERIES[index % len(SERIES)]}"></span>{escape(name)}'


def _header(data: dict) -> str:
    runs = data["runs"]
    made, failed = sum(len(run["items"]) for run in runs), sum(len(run["failed"]) for run in runs)
    model = ", ".join(dict.fromkeys(run["plan"]["model"] for run in runs))
    seeds = data["seeds"]
    chips = {
        "prompts": data["set"]["prompts"],
        "seeds": ", ".join(map(str, seeds)) if len(seeds) < 8 else f"{len(seeds)} ({seeds[0]} to {seeds[-1]})",
        "items": made,
        "failed": failed,
        "model": model,
        "protocol": ", ".join(dict.fromkeys(run["plan"]["settings"].get("protocol", "this pack's own") for run in runs)),
        "made by": ", ".join(dict.fromkeys(Path(run["plan"]["maker"]).name for run in runs)),
        "device": data["environment"]["device"],
        "version": data["environment"]["grounded_dreamer"],
    }
    shown = "".join(f'<span class="chip">{name} <b>{escape(str(value))}</b></span>' for name, value in chips.items())
    about = data["set"]
    lead = about["description"] if about["title"] in data["title"] else f"{about['title']}. {about['description']}"
    return f'<h1>{escape(data["title"])}</h1><p class="lead">{escape(lead)}</p><div class="chips">{shown}</div>'


def _tiles(run: dict, metrics: dict[str, Metric]) -> str:
    judged = [name for name in run["summary"] if name.startswith("judge_")]
    chosen = [name for name in (*judged[:4], *HEADLINES) if name in run["summary"]][:8]
    tiles = []
    for name in chosen:
        metric, estimate = metrics[name], Estimate(**run["summary"][name]["all"])
        unit = f" {metric.unit}" if metric.unit else ""
        tiles.append(
            f'<div class="card tile"><div class="value">{_form(estimate.value, metric)}{unit}</div>'
            f'<div class="range">{_form(estimate.low, metric)} to {_form(estimate.high, metric)}</div>'
            f'<div class="name">{escape(metric.label)}</div></div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _comparisons(data: dict, metrics: dict[str, Metric]) -> str:
    parts = []
    for index, comparison in enumerate(data["comparisons"], 1):
        rows = []
        for name in (name for name in metrics if name in comparison["metrics"]):
            paired = comparison["metrics"][name]
            metric, change = metrics[name], Estimate(**paired["difference"])
            gain = {"higher": change.value, "lower": -change.value, "": 0.0}[metric.better]
            certain = change.low > 0 or change.high < 0
            verdict = ("better" if gain > 0 else "worse") if certain and gain else ""
            unit = " points" if metric.is_rate else f" {metric.unit}" if metric.unit else ""
            form = (lambda v: f"{100 * v:+.1f}") if metric.is_rate else (lambda v: ("+" if v > 0 else "") + number(v))
            rows.append(
                f"<tr><td>{escape(metric.label)}</td><td class='{verdict}'>{form(change.value)}{unit} "
                f"<span class='range'>[{form(change.low)}, {form(change.high)}]</span></td>"
                f"<td>{paired['risen']} up, {paired['fallen']} down of {change.n}</td><td>{paired['p_value']:.3g}</td>"
                f"<td class='{verdict}'>{verdict or 'no clear difference'}</td></tr>"
            )
        parts.append(
            f"<h2>{_key(0, comparison['from'])} &rarr; {_key(index, comparison['to'])}</h2>"
            "<p class='note'>The same prompts and seeds under both: change with its 95 % interval, exact sign test's p.</p>"
            "<div class='card wide'><table><tr><th>metric</th><th>change</th><th>items</th><th>p</th><th></th></tr>"
            f"{''.join(rows)}</table></div>"
        )
    return "".join(parts)


def _groups(runs: list[dict], name: str) -> list[str]:
    return list(dict.fromkeys(group for run in runs for group in run["summary"].get(name, {})))


def _estimate(run: dict, name: str, group: str) -> Estimate | None:
    data = run["summary"].get(name, {}).get(group)
    return None if data is None else Estimate(**data)


def _charts(runs: list[dict], metrics: dict[str, Metric]) -> str:
    cards = []
    for name, metric in metrics.items():
        rows = [(group, [_estimate(run, name, group) for run in runs]) for group in _groups(runs, name)]
        estimates = [estimate for _, values in rows for estimate in values if estimate is not None]
        if (len(rows) < 2 and len(runs) < 2) or len({(e.value, e.low, e.high) for e in estimates}) < 2:
            continue  # nothing to see: one dot, or the same one everywhere
        unit = f", {metric.unit}" if metric.unit else ""
        cards.append(
            f'<div class="card"><h3>{escape(metric.label)}{unit}</h3><div class="small">{escape(metric.meaning)}</div>'
            f"{interval_chart(rows, metric.is_rate)}</div>"
        )
    seconds = [record["numbers"]["seconds"] for run in runs for record in run["items"] if "seconds" in record["numbers"]]
    if len(seconds) >= 8:
        cards.append(
            '<div class="card"><h3>Time of an item, s</h3><div class="small">all items; the dashed line is the median</div>'
            f"{histogram(seconds)}</div>"
        )
    legend = " &nbsp; ".join(_key(index, run["name"]) for index, run in enumerate(runs)) if len(runs) > 1 else ""
    return f'<h2>Plots</h2><p class="note">{legend}</p><div class="grid">{"".join(cards)}</div>' if cards else ""


def _table(runs: list[dict], metrics: dict[str, Metric]) -> str:
    groups = list(dict.fromkeys(group for name in metrics for group in _groups(runs, name)))
    head = "".join(f"<th>{escape(group)}</th>" for group in groups)
    rows = []
    for name, metric in metrics.items():
        arrow = {"higher": " &uarr;", "lower": " &darr;", "": ""}[metric.better]
        label = f"{escape(metric.label)}{f' ({metric.unit})' if metric.unit else ''}{arrow}"
        cells = "".join(f"<td>{_cell(runs, name, group, metric)}</td>" for group in groups)
        rows.append(f"<tr><td>{label}<div class='meaning'>{escape(metric.meaning)}</div></td>{cells}</tr>")
    return (
        "<h2>All numbers</h2><p class='note'>95 % intervals: Wilson's for yes/no values, counting items as independent; "
        "bootstrap over prompts, with all their seeds, for means. Arrows point to what is better.</p>"
        f"<div class='card wide'><table><tr><th>metric</th>{head}</tr>{''.join(rows)}</table></div>"
    )


def _cell(runs: list[dict], name: str, group: str, metric: Metric) -> str:
    """The runs' values of one metric in one group, below each other."""
    lines = []
    for index, run in enumerate(runs):
        estimate = _estimate(run, name, group)
        if estimate is not None:
            key = _key(index, "") if len(runs) > 1 else ""
            between = f"{_form(estimate.low, metric)} to {_form(estimate.high, metric)}"
            tail = f"<span class='range'>{between}, n = {estimate.n}</span>"
            lines.append(f"<div>{key}{_form(estimate.value, metric)}<br>{tail}</div>")
    return "".join(lines)


def diversity_beside_alignment(runs: list[dict]) -> tuple[list[str], list[tuple[str, int, list[float | None]]]]:
    """Names of the diversities and then the alignments that were measured over several seeds, and for each run its name, how
    many prompts, and the means."""
    records = [{**r["numbers"], **r["alignment"]} for run in runs for r in run["prompts"]]
    diversities = {name for run in runs for r in run["prompts"] for name in r["numbers"]}
    names = sorted({name for record in records for name in record}, key=lambda name: (name not in diversities, name))
    rows = []
    for run in runs:
        of_run = [{**r["numbers"], **r["alignment"]} for r in run["prompts"]]
        found = [[record[name] for record in of_run if name in record] for name in names]
        rows.append((run["name"], len(of_run), [sum(values) / len(values) if values else None for values in found]))
    return names, rows


def _diversity(runs: list[dict], metrics: dict[str, Metric]) -> str:
    names, rows = diversity_beside_alignment(runs)
    if not names:
        return ""
    head = "".join(f"<th>{escape(metrics[name].label)}</th>" for name in names)
    lines = []
    for name, count, values in rows:
        cells = "".join(f"<td>{'' if value is None else number(value)}</td>" for value in values)
        lines.append(f"<tr><td>{escape(name)}</td><td>{count}</td>{cells}</tr>")
    return (
        "<h2>Diversity beside alignment</h2><p class='note'>Means over the prompts that have several seeds. What shows "
        "something else each time is diverse, too: a diversity counts where the alignment holds.</p>"
        f"<div class='card wide'><table><tr><th>run</th><th>prompts</th>{head}</tr>{''.join(lines)}</table></div>"
    )


def _whole(runs: list[dict]) -> str:
    rows = []
    for name, (label, meaning) in WHOLE.items():
        values = [run["whole"].get(name) for run in runs]
        if any(value is not None for value in values):
            cells = "".join(f"<td>{'' if v is None else escape(v) if isinstance(v, str) else number(v)}</td>" for v in values)
            rows.append(f"<tr><td>{label}<div class='meaning'>{meaning}</div></td>{cells}</tr>")
    head = "".join(f"<th>{escape(run['name'])}</th>" for run in runs)
    table = f"<div class='card wide'><table><tr><th></th>{head}</tr>{''.join(rows)}</table></div>" if rows else ""
    notes = dict.fromkeys(note for run in runs for note in run["notes"])
    return f"<h2>Of the whole set</h2>{table}" + "".join(f"<p class='note'>{escape(note)}</p>" for note in notes)


def _failures(runs: list[dict]) -> str:
    rows = [
        f"<tr><td>{escape(run['name'])}</td><td><code>{escape(key)}</code></td><td>{escape(error)}</td></tr>"
        for run in runs
        for key, error in run["failed"].items()
    ]
    if not rows:
        return ""
    head = "<tr><th>run</th><th>item</th><th>error</th></tr>"
    return f"<h2>Failed items</h2><div class='card wide'><table>{head}{''.join(rows)}</table></div>"


def _gallery(gallery: list[dict], runs: list[dict], metrics: dict[str, Metric]) -> str:
    facts = [n for n in metrics if n.startswith("judge_")][:2] + [n for n in HEADLINES if n in metrics and n != "seconds"][:2]
    cards = []
    for row in gallery:
        columns = []
        for index, made in enumerate(row["runs"]):
            name = f"<div class='facts'>{_key(index, runs[index]['name'])}</div>" if len(runs) > 1 else ""
            if made is None:
                columns.append(f"<div><div class='missing'>failed or not made</div>{name}</div>")
                continue
            shown = " &middot; ".join(
                f"{escape(metrics[n].label)} {_fact(made['numbers'][n], metrics[n])}" for n in facts if n in made["numbers"]
            )
            alt = escape(f"views of {row['prompt']}")
            columns.append(f"<div><img src='{made['picture']}' alt='{alt}'>{name}<div class='facts'>{shown}</div></div>")
        cards.append(
            f"<div class='card item'><h3>{escape(row['prompt'])} <span class='seed'>seed {row['seed']}</span></h3>"
            f"<div class='runs'>{''.join(columns)}</div></div>"
        )
    return f"<h2>Pictures</h2><div class='gallery' style='--runs:{len(runs)}'>{''.join(cards)}</div>"


def _fact(value: float | bool, metric: Metric) -> str:
    return ("yes" if value else "no") if metric.is_rate else number(value)


def _method(data: dict) -> str:
    plans = "".join(
        f"<p>{escape(run['name'])}: <code>{escape(json.dumps(run['plan'], sort_keys=True))}</code></p>" for run in data["runs"]
    )
    environment = escape(", ".join(f"{k} {v}" for k, v in data["environment"].items()))
    closing = f"<p class='small'>{environment}. The numbers are in report.json.</p>"
    return f"<h2>How it was made</h2><div class='card'>{plans}{closing}</div>"
