"""What the benchmark of candidates derives from judged samples, on samples whose answer is known."""

from __future__ import annotations

import json

import pytest

from gd_core.settings.verdict import VerdictConfig
from tools.candidate_arms import (
    DOUBTFUL,
    EARLY,
    PAPER,
    PLAIN,
    TODAY,
    Prompt,
    Rows,
    compare,
    markdown,
    of_verdicts,
    unfinished,
)

CONFIG = VerdictConfig(early=(0.0, 1.0, 0.0, 0.0, 0.0), final=(0.0, 1.0, 0.0, 0.0, 0.0))
SECONDS = {PLAIN: 10.0, TODAY: 13.0, DOUBTFUL: 14.5, "judged": 10.5, "looked": 10.5, "early": 1.5, "rest": 9.0}


def row(index, k, lift, there, arm=PLAIN, acted=False):
    features = [[lift, 0, 0, 0], [3.0, 0, 0, 0]]
    return {
        "set": "two", "index": index, "arm": arm, "k": k, "all": there, "in_three": there, "same_content": True,
        "there": [there, True], "early": features, "final": features, "acted": acted,
    }  # fmt: skip


@pytest.fixture
def prompts(tmp_path):
    """Ten prompts with three candidates: the first misses a subject and says so, the third is whole and surest."""
    rows = Rows(tmp_path / "rows.jsonl")
    for i in range(10):
        rows.add([row(i, 0, -3.0, False), row(i, 1, 1.0, i < 5), row(i, 2, 3.0, True)])
        rows.add([row(i, k, lift, False, EARLY) for k, lift in enumerate((-3.0, 1.0, 3.0))])
        rows.add([row(i, 0, 0.0, i < 2, TODAY, True), row(i, 0, 0.0, i < 2, DOUBTFUL, True), row(i, 2, 3.0, True, DOUBTFUL)])
    return [Prompt(rows, "two", i, CONFIG, 3) for i in range(10)]


def test_arms_and_what_they_cost(prompts):
    arms = {arm["arm"]: arm for arm in compare(prompts, SECONDS, 3)}
    assert {name: arm["all"]["value"] for name, arm in arms.items()} == pytest.approx({
        "plain": 0.0, "plain with a verdict": 0.0, "today's refocusing": 0.2, "2 candidates": 0.5, "3 candidates": 1.0,
        "refocusing where in doubt": 0.2, "2 candidates, refocusing where in doubt": 0.5,
        "3 candidates, refocusing where in doubt": 1.0, "2 candidates, retries": 0.5,
        "3 candidates, retries": 1.0, "1 fresh retries": 0.5, "2 fresh retries": 0.5, "oracle of 2, early": 0.5,
        "oracle of 3, early": 1.0,
    })  # fmt: skip
    assert arms["plain with a verdict"]["time"] == pytest.approx(1.05)
    assert arms["3 candidates"]["time"] == pytest.approx(1.35)
    assert arms["refocusing where in doubt"]["time"] == pytest.approx(1.45), "it acts on all ten"
    assert arms["1 fresh retries"]["time"] == pytest.approx(2.1), "the first one's subject is called missing in all ten"
    assert arms["3 candidates, refocusing where in doubt"]["time"] == pytest.approx(1.35), "it acts on none"
    assert arms["3 candidates"]["all"]["gained"] == 10 and arms["3 candidates"]["all"]["p"] == pytest.approx(2 / 2**10)


def test_refocusing_rests_where_nothing_is_in_doubt(prompts):
    sure = prompts[0].other[DOUBTFUL][1]
    assert sure is prompts[0].rows[1] and not sure["acted"], "nothing was sampled for it"


def test_retries_finish_the_next_best_while_something_is_missing(prompts):
    first = prompts[0]
    assert first.order(3) == [2, 1, 0]
    assert first.finished(first.order(3)) == [2] and first.kept([2]) is first.rows[2]
    assert first.finished(range(3)) == [0, 1] and first.kept([0, 1]) is first.rows[1]


def test_only_what_an_arm_finishes_is_sampled(tmp_path):
    """The third start is the early winner. The first misses a subject, so a retry wants the second, which is whole."""
    rows = Rows(tmp_path / "rows.jsonl")
    rows.add([row(0, k, lift, False, EARLY) for k, lift in enumerate((-3.0, 1.0, 3.0))])
    assert unfinished(rows, "two", [0], CONFIG, 3) == [(0, 0), (0, 1), (0, 2)], "the first, and the best of two and of three"
    rows.add([row(0, 0, -3.0, False), row(0, 2, 3.0, True)])
    assert unfinished(rows, "two", [0], CONFIG, 3) == [(0, 1)]
    rows.add([row(0, 1, 1.0, True)])
    assert unfinished(rows, "two", [0], CONFIG, 3) == []


def test_rows_without_verdicts_have_the_arms_that_need_none(tmp_path):
    rows = Rows(tmp_path / "rows.jsonl")
    for arm, there in ((PLAIN, False), (PAPER, True)):
        rows.add([{key: value for key, value in row(0, 0, 0.0, there, arm).items() if key not in ("early", "final")}])
    prompts = [Prompt(rows, "two", 0, CONFIG, 1)]
    arms = compare(prompts, SECONDS | {PAPER: 20.0}, 1)
    assert [(arm["arm"], arm["time"]) for arm in arms if "verdict" not in arm["arm"]] == [
        ("plain", 1.0), ("Attend-and-Excite over the mean of the views", 2.0),
    ]  # fmt: skip
    assert of_verdicts([prompts[0].rows[0]], CONFIG) is None


def test_a_run_goes_on_from_its_rows_and_tables_are_written(tmp_path, prompts):
    rows = Rows(tmp_path / "rows.jsonl")
    assert len(rows.rows) == 90
    verdicts = of_verdicts([r for p in prompts for r in p.rows], CONFIG)
    assert verdicts["missing"] == 15 and verdicts["early"]["area"] > 0.9
    table = markdown("two", compare(prompts, SECONDS, 3), verdicts)
    assert "| 3 candidates | 1.35 | 1.000" in table and json.dumps(verdicts)
