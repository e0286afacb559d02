import json
import re

import pytest

from tools.claims import CELL, CLAIMS, MISSING, filled, gates, keep, main

PSNR = {"all": {"value": 20.0, "low": 19.0, "high": 21.0, "n": 4}}
SUBJECTS = {"all": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 8}}
REPORT = {
    "metrics": {"psnr": {"is_rate": False}, "judge_all_subjects": {"is_rate": True}},
    "runs": [
        {"name": "off", "summary": {"psnr": PSNR}, "whole": {"fid": 7.5}},
        {"name": "on", "summary": {"judge_all_subjects": SUBJECTS}, "whole": {}},
    ],
    "comparisons": [
        {
            "from": "off",
            "to": "on",
            "metrics": {"psnr": {"difference": {"value": 1.0, "low": 0.5, "high": 1.5, "n": 4}, "risen": 3, "fallen": 1}},
        }
    ],
}


def test_cells_are_what_the_reports_say(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(REPORT))
    text = "x <!--m a 0 psnr-->old<!--/m-->, <!--m a 1 judge_all_subjects--><!--/m-->, <!--m a 0>1 psnr--><!--/m-->, "
    text += "<!--m a 0 fid--><!--/m-->, <!--m b 0 psnr--><!--/m-->"
    made = filled(text, tmp_path)
    shown = re.sub(r"<!--.*?-->", "", made)
    assert shown == (
        "x 20.0 [19.0, 21.0], n = 4, 50.0 % [25.0 %, 75.0 %], n = 8, +1.00 [0.500, 1.50], n = 4, 3 up, 1 down, 7.50, " + MISSING
    )
    assert filled(made, tmp_path) == made
    with pytest.raises(ValueError, match="no metric 'ssim' of run '0'"):
        filled("<!--m a 0 ssim--><!--/m-->", tmp_path)


def row(index, k, there, arm="plain"):
    told = {"set": "two", "index": index, "arm": arm, "k": k, "all": all(there), "in_three": all(there), "there": there}
    return told | {"in_views": [4 * seen for seen in there], "early": [[0.0]], "final": [[1.0]]}


def test_a_benchmark_of_candidates_is_kept_small_with_its_gates(tmp_path):
    rows = [row(0, 0, [True, False]), row(0, 1, [True, True]), row(1, 0, [True, True]), row(1, 1, [False, True])]
    rows += [row(0, 0, [True, True], "refocus"), {"set": "two", "index": 0, "arm": "early", "k": 0, "early": [[0.0]]}]
    told = {"value": 0.5, "low": 0.1, "high": 0.9, "n": 2, "gained": 1, "lost": 0, "p": 0.25}
    arms = [{"arm": arm, "time": 1.5, "all": told} for arm in ("plain", "2 candidates, retries")]
    run, reports = tmp_path / "run", tmp_path / "reports"
    run.mkdir(), reports.mkdir()
    with pytest.raises(ValueError, match="no summary.json and rows.jsonl"):
        keep(run, reports, "neglect")
    (run / "summary.json").write_text(json.dumps({"two": {"arms": arms, "verdicts": {"early": {"area": 0.8}}}}))
    (run / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keep(run, reports, "neglect")
    kept = [json.loads(line) for line in (reports / "neglect.rows.jsonl").read_text().splitlines()]
    assert len(kept) == 5 and not {"early", "final"} & set(kept[0]) and kept[4]["arm"] == "refocus"
    found = gates(kept, {})["two"]
    assert found["left_out"]["value"] == 0.5 and found["best"]["value"] == 1.0 and found["starts"] == 2
    assert gates(kept[:3], {})["two"]["best"] is None, "some prompts had fewer starts"
    cells = "<!--c neglect two gate: left_out--><!--/c-->, <!--c neglect two gate: area--><!--/c-->, "
    cells += "<!--c neglect two 2 candidates, retries: all--><!--/c-->, <!--c neglect two plain: time--><!--/c-->, "
    cells += "<!--c other two plain: all--><!--/c-->"
    shown = re.sub(r"<!--.*?-->", "", filled(cells, reports))
    assert shown == (
        "50.0 % [9.5 %, 90.5 %], n = 2, 0.800, 50.0 % [10.0 %, 90.0 %], n = 2, 1 gained, 0 lost, p = 0.25, 1.50, " + MISSING
    )
    with pytest.raises(ValueError, match="no 'all' of arm '9 candidates' in set 'two'"):
        filled("<!--c neglect two 9 candidates: all--><!--/c-->", reports)


def test_the_page_is_up_to_date_and_names_the_papers_numbers():
    assert main(["--check"]) == 0
    page = CLAIMS.read_text(encoding="utf-8")
    assert CELL.search(page) and all(value in page for value in ("62.73 %", "2.53", "17.15 %", "115.94"))
