import json
import re

import pytest

from tools.claims import CELL, CLAIMS, MISSING, filled, main

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


def test_the_page_is_up_to_date_and_names_the_papers_numbers():
    assert main(["--check"]) == 0
    page = CLAIMS.read_text(encoding="utf-8")
    assert CELL.search(page) and all(value in page for value in ("62.73 %", "2.53", "17.15 %", "115.94"))
