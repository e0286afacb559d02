"""Fill the measured cells of `docs/claims.md` from the reports beside it, so that no number there is typed by hand.

    python -m tools.claims                    rewrite docs/claims.md
    python -m tools.claims --check            exit 1 when a cell is not what its report says
    python -m tools.claims --keep DIR NAME    keep what tools.bench_candidates left in DIR as docs/reports/NAME.json and its
                                              rows as NAME.rows.jsonl, then rewrite docs/claims.md

A cell stands between `<!--m REPORT RUN METRIC-->` and `<!--/m-->`: REPORT is a file of `docs/reports` without suffix, RUN a
run's number in it, counted from 0, or `A>B` for the paired change from run A to run B. One of a kept benchmark of candidates
stands between `<!--c REPORT SET ARM: QUESTION-->` and `<!--/c-->`; QUESTION is one of the benchmark's ("all", "in_three",
"same_content"), "time", or with the arm "gate" one of `gates`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gd_core.benchmark import Estimate, wilson_interval
from gd_core.benchmark.charts import number, shown

CLAIMS = Path(__file__).parents[1] / "docs" / "claims.md"
CELL = re.compile(r"(<!--m ([\w-]+) ([\d>]+) (\w+)-->)(.*?)(<!--/m-->)", re.DOTALL)
ARM_CELL = re.compile(r"(<!--c ([\w-]+) (\w+) ([^:>]+): (\w+)-->)(.*?)(<!--/c-->)", re.DOTALL)
MISSING = "not measured yet"
SMALL = ("set", "index", "arm", "k", "all", "in_three", "same_content", "there", "in_views", "acted")


def filled(text: str, reports: Path) -> str:
    """`text` with every cell as the reports in the folder `reports` have it."""
    text = CELL.sub(lambda cell: cell[1] + measured(reports / f"{cell[2]}.json", cell[3], cell[4]) + cell[6], text)
    return ARM_CELL.sub(lambda cell: cell[1] + of_arm(reports / f"{cell[2]}.json", *cell.group(3, 4, 5)) + cell[7], text)


def measured(report: Path, run: str, metric: str) -> str:
    """One cell: value, 95 % interval and n; `MISSING` without the report.

    Raises:
        ValueError: a run or metric that the report does not have.
    """
    if not report.is_file():
        return MISSING
    data = json.loads(report.read_text(encoding="utf-8"))
    try:
        if ">" in run:
            first, other = (data["runs"][int(index)]["name"] for index in run.split(">"))
            comparison = next(c for c in data["comparisons"] if (c["from"], c["to"]) == (first, other))
            paired = comparison["metrics"][metric]
            change = Estimate(**paired["difference"])
            sign = "+" if change.value > 0 else ""
            return f"{sign}{_text(change, data, metric)}, {paired['risen']} up, {paired['fallen']} down"
        if metric in data["runs"][int(run)]["whole"]:
            return number(data["runs"][int(run)]["whole"][metric])
        return _text(Estimate(**data["runs"][int(run)]["summary"][metric]["all"]), data, metric)
    except (KeyError, IndexError, StopIteration) as error:
        raise ValueError(f"{report} has no metric '{metric}' of run '{run}'") from error


def _text(estimate: Estimate, data: dict, metric: str) -> str:
    return f"{shown(estimate, data['metrics'][metric]['is_rate'])}, n = {estimate.n}"


def of_arm(report: Path, name: str, arm: str, question: str) -> str:
    """One cell of a kept benchmark of candidates: share with its interval, and what was gained and lost against plain sampling.

    Raises:
        ValueError: a set, arm or question that the report does not have.
    """
    if not report.is_file():
        return MISSING
    data = json.loads(report.read_text(encoding="utf-8"))
    try:
        if arm == "gate":
            value = data["gates"][name][question]
            if value is None:
                return MISSING
            return number(value) if isinstance(value, float) else f"{shown(Estimate(**value), True)}, n = {value['n']}"
        found = next(a for a in data["summary"][name]["arms"] if a["arm"] == arm)
        if question == "time":
            return number(found["time"])
        told = found[question]
        share = shown(Estimate(*(told[key] for key in ("value", "low", "high", "n"))), True)
        paired = "" if arm == "plain" else f", {told['gained']} gained, {told['lost']} lost, p = {told['p']:.2g}"
        return f"{share}, n = {told['n']}{paired}"
    except (KeyError, StopIteration) as error:
        raise ValueError(f"{report} has no '{question}' of arm '{arm}' in set '{name}'") from error


def gates(rows: Sequence[dict], summary: dict) -> dict[str, dict]:
    """Whether neglect can be tested at all, for each set, from plain samples.

    `left_out`: share of scenes with a subject in no view. `best`: share in which one of `starts` has all subjects in three of
    four views. `area`: under the ROC curve of the early verdict. None where the rows do not tell.
    """
    table = {}
    for name in dict.fromkeys(row["set"] for row in rows):
        starts: dict[int, dict[int, dict]] = {}
        for row in rows:
            if row["set"] == name and row["arm"] == "plain":
                starts.setdefault(row["index"], {})[row["k"]] = row
        first = [made[0]["in_views"] for made in starts.values() if "in_views" in made.get(0, {})]
        most = max(len(made) for made in starts.values())
        tried = [any(row["in_three"] for row in made.values()) for made in starts.values() if len(made) == most]
        table[name] = {
            "left_out": _share([min(counts) == 0 for counts in first]),
            "best": _share(tried) if most > 1 and len(tried) == len(starts) else None,
            "starts": float(most),
            "area": (summary.get(name, {}).get("verdicts") or {}).get("early", {}).get("area"),
        }
    return table


def _share(answers: Sequence[bool]) -> dict | None:
    return asdict(wilson_interval(sum(answers), len(answers))) if answers else None


def keep(folder: Path, reports: Path, name: str) -> None:
    """Write what `tools.bench_candidates` left in `folder` as `NAME.json` and `NAME.rows.jsonl`.

    Raises:
        ValueError: there is no finished benchmark in `folder`.
    """
    if not (folder / "summary.json").is_file() or not (folder / "rows.jsonl").is_file():
        raise ValueError(f"no summary.json and rows.jsonl in '{folder}': python -m tools.bench_candidates makes them")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    judged = [row for row in rows if "there" in row]
    kept = {"summary": summary, "gates": gates(judged, summary)}
    (reports / f"{name}.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
    lines = [json.dumps({key: row[key] for key in SMALL if key in row}, separators=(",", ":")) for row in judged]
    (reports / f"{name}.rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 when a cell is out of date")
    parser.add_argument("--keep", nargs=2, metavar=("DIR", "NAME"), help="keep a benchmark of candidates as docs/reports/NAME")
    args = parser.parse_args(argv)
    if args.keep:
        keep(Path(args.keep[0]), CLAIMS.parent / "reports", args.keep[1])
    before = CLAIMS.read_text(encoding="utf-8")
    after = filled(before, CLAIMS.parent / "reports")
    if args.check:
        return int(before != after)
    CLAIMS.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
