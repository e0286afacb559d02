"""What the doctor says, and that it finds what is wrong."""

import pytest
import torch

from gd_core import devices, doctor
from gd_core.cli import main

CPU = torch.device("cpu")


def test_the_short_form_says_what_a_report_needs(capsys):
    assert main(["doctor", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    for part in (torch.__version__, "cpu: CPU", "free of", "float32", "nerfacc needs CUDA", "tinycudann needs CUDA"):
        assert part in said
    assert said.rstrip().endswith("nothing wrong")


@pytest.mark.parametrize("arguments", [["--device", "gpu"], ["--width", "100"], ["--width", "0"]])
def test_bad_arguments_are_refused(arguments, capsys):
    assert main(["doctor", *arguments]) == 2
    assert "error:" in capsys.readouterr().err


def test_a_device_that_does_not_compute_is_wrong():
    """The meta device stands for one: it takes tensors and gives no numbers back."""
    (found,) = doctor.check_device(torch.device("meta"))
    assert found.right is False and "WRONG" in str(found)
    (found,) = doctor.check_device(CPU)
    assert found.right is True and "ok" in str(found)


def test_exit_code_1_if_something_is_wrong(capsys, monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda device: 8_000_000_000)
    monkeypatch.setattr(devices, "total_memory", lambda device: 8_000_000_000)
    monkeypatch.setattr("gd_core.commands.resolve_device", lambda name: torch.device("meta"))
    assert main(["doctor"]) == 1
    assert "1 wrong" in capsys.readouterr().out


@pytest.mark.parametrize(("error", "right"), [(0.0, True), (0.009, True), (0.011, False), (float("nan"), False)])
def test_a_path_is_judged_by_its_relative_error(error, right):
    exact = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert doctor.judged("x", exact * (1 + error), exact, 0.01).right is right
    assert doctor.judged("x", 1e-6 * exact * (1 + error), 1e-6 * exact, 0.01).right is right


def test_what_a_check_raises_is_a_finding():
    with doctor.finding_failures("x") as failed:
        raise RuntimeError("no kernel image is available")
    assert [str(finding) for finding in failed] == [f"{'x':<34} RuntimeError: no kernel image is available  WRONG"]


def test_the_ball_is_seen_alike_from_all_sides():
    views = doctor.ball_views(32)
    shares = views.masks.mean(dim=(1, 2))
    assert 0.1 < shares[0] < 0.5 and torch.allclose(shares, shares[0].expand(4))
