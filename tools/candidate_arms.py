"""What the arms of `tools.bench_candidates` keep of the samples that are there, what that costs, and what they still want.

An arm is not sampled: candidates and retries choose among starts by verdicts that are already known, so each arm is a choice
of rows, with CPU seconds from the parts that were timed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from gd_core.benchmark.statistics import paired_difference, wilson_interval
from gd_core.calibration import area_under_curve, probabilities, reliability
from gd_core.settings.verdict import VerdictConfig
from gd_core.verdicts import MISSING, THERE

# Only compared; sampled without refocusing, with it in every sample, with it where there is doubt, with the paper's objective.
EARLY, PLAIN, TODAY, DOUBTFUL, PAPER = "early", "plain", "refocus", "doubtful", "paper"


class Rows:
    """Judged samples, one JSON line each, by (set, prompt, arm, candidate)."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows = {(r["set"], r["index"], r["arm"], r["k"]): r for r in map(json.loads, lines)}

    def add(self, rows: Sequence[dict]) -> None:
        with self.path.open("a") as file:
            for row in rows:
                self.rows[row["set"], row["index"], row["arm"], row["k"]] = row
                file.write(json.dumps(row) + "\n")


class Prompt:
    """The candidates of one prompt with what the recipe's verdicts say of them. `early` is None where nothing was compared."""

    def __init__(self, rows: Rows, name: str, index: int, config: VerdictConfig, count: int):
        self.config = config
        self.rows = [rows.rows.get((name, index, PLAIN, k)) for k in range(count)]
        self.other = {arm: {k: rows.rows.get((name, index, arm, k)) for k in range(count)} for arm in (TODAY, DOUBTFUL, PAPER)}
        compared = [rows.rows.get((name, index, EARLY, k)) for k in range(count)]
        self.early = [_log_probability(row["early"], config.early) for row in compared] if all(compared) else None
        self.sure = [row is not None and _least(row["early"], config.early) >= config.there for row in compared]
        for k, row in enumerate(self.rows):
            if self.sure[k] and row is not None and self.other[DOUBTFUL][k] is None:
                self.other[DOUBTFUL][k] = row  # refocusing rests

    def winner(self, count: int) -> int:
        return max(range(count), key=lambda k: self.early[k])

    def order(self, count: int) -> list[int]:
        return sorted(range(count), key=lambda k: -self.early[k])

    def finished(self, order: Sequence[int]) -> list[int]:
        """Of the candidates in this order those that are finished, while the final verdict says that a subject is missing. The
        last one is one that was not sampled yet where it is not known what is."""
        finished = []
        for k in order:
            finished.append(k)
            if self.rows[k] is None or _least(self.rows[k]["final"], self.config.final) >= self.config.missing:
                break
        return finished

    def kept(self, finished: Sequence[int]) -> dict | None:
        """Of finished candidates the row of the best, None where one was not sampled."""
        if any(self.rows[k] is None for k in finished):
            return None
        return self.rows[max(finished, key=lambda k: _log_probability(self.rows[k]["final"], self.config.final))]


def unfinished(rows: Rows, name: str, indices: Sequence[int], config: VerdictConfig, count: int) -> list[tuple[int, int]]:
    """The candidates (prompt, k) that an arm wants to finish next: those that the early verdict chooses, and retries."""
    wanted = set()
    for i in indices:
        prompt = Prompt(rows, name, i, config, count)
        for n in range(1, count + 1):
            wanted |= {(i, order[-1]) for order in (prompt.finished(range(n)), prompt.finished(prompt.order(n)))}
    return sorted((i, k) for i, k in wanted if (name, i, PLAIN, k) not in rows.rows)


def is_done(prompt: Prompt, refocus: Sequence[str], counts: Sequence[int], chosen: int) -> bool:
    """Whether every arm that is asked for has its sample.

    Args:
        refocus: the arms with refocusing. counts: of candidates, none for a benchmark without verdicts.
        chosen: how many candidates the winner comes from that is refocused, too.
    """
    done = [prompt.rows[0], *(prompt.other[arm][0] for arm in (TODAY, PAPER) if arm in refocus)]
    if counts:
        if prompt.early is None:
            return False
        done += [prompt.rows[prompt.winner(n)] for n in counts]
        done += [prompt.kept(prompt.finished(order)) for n in counts for order in (range(n), prompt.order(n))]
        if DOUBTFUL in refocus:
            done += [prompt.other[DOUBTFUL][prompt.winner(n)] for n in (1, chosen)]
    return all(done)


def _each(features: Sequence[Sequence[float]], coefficients: Sequence[float]) -> np.ndarray:
    x = np.array(features)
    return probabilities(x, coefficients) if coefficients else 1 / (1 + np.exp(-x[:, 0]))


def _log_probability(features, coefficients) -> float:
    return float(np.log(_each(features, coefficients)).sum())


def _least(features, coefficients) -> float:
    return float(_each(features, coefficients).min())


def compare(prompts: Sequence[Prompt], seconds: dict, count: int) -> list[dict]:
    """Every arm that all prompts have, against plain sampling of the first candidate. An arm is the rows that it keeps and its
    CPU seconds."""
    plain = [p.rows[0] for p in prompts]
    base, early, rest, judged = seconds[PLAIN], seconds["early"], seconds["rest"], seconds["judged"]
    arms: dict[str, tuple[list[dict | None], float]] = {"plain": (plain, base), "plain with a verdict": (plain, judged)}
    for arm, name in ((PAPER, "Attend-and-Excite over the mean of the views"), (TODAY, "today's refocusing")):
        if all(p.other[arm][0] for p in prompts):
            arms[name] = ([p.other[arm][0] for p in prompts], seconds[arm])
    if all(p.early is not None for p in prompts):
        for n in range(2, count + 1):
            arms[f"{n} candidates"] = ([p.rows[p.winner(n)] for p in prompts], n * early + rest)
        for n in range(1, count + 1):
            chosen = [p.other[DOUBTFUL][p.winner(n)] for p in prompts]
            acted = float(np.mean([bool(row and row["acted"]) for row in chosen]))
            name = "refocusing where in doubt" if n == 1 else f"{n} candidates, refocusing where in doubt"
            arms[name] = (chosen, n * early + rest + acted * (seconds[DOUBTFUL] - seconds["looked"]))
        for n in range(2, count + 1):
            finished = [p.finished(range(n)) for p in prompts]
            kept = [p.kept(f) for p, f in zip(prompts, finished, strict=True)]
            arms[f"{n - 1} fresh retries"] = (kept, float(np.mean([len(f) for f in finished])) * judged)
        for n in range(2, count + 1):
            finished = [p.finished(p.order(n)) for p in prompts]
            kept = [p.kept(f) for p, f in zip(prompts, finished, strict=True)]
            arms[f"{n} candidates, retries"] = (kept, n * early + float(np.mean([len(f) for f in finished])) * rest)
    if all(row for p in prompts for row in p.rows):
        for n in range(2, count + 1):
            arms[f"oracle of {n}, early"] = ([max(p.rows[:n], key=lambda r: r["all"]) for p in prompts], n * early + rest)
    return [_against(plain, name, rows, cost / base) for name, (rows, cost) in arms.items() if all(rows)]


def _against(plain: Sequence[dict], name: str, rows: Sequence[dict], ratio: float) -> dict:
    result = {"arm": name, "scenes": len(rows), "time": ratio}
    for question in ("all", "in_three", "same_content"):
        a, b = ([float(row[question]) for row in side] for side in (plain, rows))
        paired = paired_difference(a, b)
        share = asdict(wilson_interval(int(sum(b)), len(b)))
        result[question] = share | {"gained": paired.risen, "lost": paired.fallen, "p": paired.p_value}
    return result


def of_verdicts(rows: Sequence[dict], config: VerdictConfig) -> dict | None:
    """How well the early and the final verdict tell which subjects are there, over samples without refocusing. None where the
    rows have no verdicts."""
    if not all("final" in row for row in rows):
        return None
    there = np.array([t for row in rows for t in row["there"]])
    result = {"subjects": len(there), "missing": int((~there).sum())}
    for name in ("early", "final"):
        said = np.concatenate([_each(row[name], getattr(config, name)) for row in rows])
        result[name] = {
            "area": area_under_curve(said, there) if 0 < there.sum() < len(there) else None,
            "reliability": reliability(said, there.astype(float)),
            "called": {
                word: [int(called.sum()), int((called & there).sum())]
                for word, called in (
                    (THERE, said >= config.there),
                    ("doubtful", (said < config.there) & (said >= config.missing)),
                    (MISSING, said < config.missing),
                )
            },
        }
    return result


def markdown(name: str, arms: Sequence[dict], verdicts: dict | None) -> str:
    lines = [
        f"{name}, {arms[0]['scenes']} prompts",
        "",
        "| | time | all subjects | gained / lost | p | views agree | gained / lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        whole, same = arm["all"], arm["same_content"]
        lines.append(
            f"| {arm['arm']} | {arm['time']:.2f} | {whole['value']:.3f} ({whole['low']:.3f} to {whole['high']:.3f}) | "
            f"{whole['gained']} / {whole['lost']} | {whole['p']:.2g} | {same['value']:.3f} | "
            f"{same['gained']} / {same['lost']} |"
        )
    if verdicts is None:
        return "\n".join(lines)
    lines += ["", f"verdicts: {verdicts['missing']} of {verdicts['subjects']} subjects missing"]
    for stage in ("early", "final"):
        found = verdicts[stage]
        area = "-" if found["area"] is None else f"{found['area']:.2f}"
        curve = ", ".join(f"{said:.2f}: {there:.2f}" for said, there, _ in found["reliability"])
        words = ", ".join(f"{word} {n} (there {t})" for word, (n, t) in found["called"].items())
        lines.append(f"- {stage}: area under the ROC curve {area}; said: there {curve}; {words}")
    return "\n".join(lines)
