"""Fill the measured cells of `docs/claims.md` from the reports beside it, so that no number there is typed by hand.

    python -m tools.claims            rewrite docs/claims.md
    python -m tools.claims --check    exit 1 when a cell is not what its report says

A cell stands between `<!--m REPORT RUN METRIC-->` and `<!--/m-->`: REPORT is a file of `docs/reports` without suffix, RUN a
run's number in it, counted from 0, or `A>B` for the paired change from run A to run B.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from gd_core.benchmark import Estimate
from gd_core.benchmark.charts import number, shown

CLAIMS = Path(__file__).parents[1] / "docs" / "claims.md"
CELL = re.compile(r"(<!--m ([\w-]+) ([\d>]+) (\w+)-->)(.*?)(<!--/m-->)", re.DOTALL)
MISSING = "not measured yet"


def filled(text: str, reports: Path) -> str:
    """`text` with every cell as the reports in the folder `reports` have it."""
    return CELL.sub(lambda cell: cell[1] + measured(reports / f"{cell[2]}.json", cell[3], cell[4]) + cell[6], text)


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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 when a cell is out of date")
    args = parser.parse_args(argv)
    before = CLAIMS.read_text(encoding="utf-8")
    after = filled(before, CLAIMS.parent / "reports")
    if args.check:
        return int(before != after)
    CLAIMS.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
