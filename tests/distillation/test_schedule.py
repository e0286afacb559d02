import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gd_core.distillation import Ramp, TimestepSchedule, cold_schedule, warm_schedule

SHARES = st.floats(0, 0.99)


def test_annealing_table_is_threestudios(sds_golden):
    schedule = cold_schedule()
    for step, lower, upper in sds_golden["anneal_step_min_max"].tolist():
        assert schedule.bounds(step) == (lower, upper)


@given(SHARES, SHARES, SHARES, SHARES, st.floats(0, 1), st.integers(0, 2**31))
def test_timesteps_stay_between_their_bounds(a, b, c, d, position, seed):
    lower, upper = sorted((a, b))
    lower_end, upper_end = sorted((c, d))
    schedule = TimestepSchedule(Ramp(lower, lower_end), Ramp(upper, upper_end))
    low, high = schedule.bounds(position)
    assert 0 <= low <= high < 1000
    assert low <= schedule.draw(position, torch.Generator().manual_seed(seed)) <= high


def test_both_bounds_are_drawn():
    schedule = TimestepSchedule(Ramp(0.5, 0.5), Ramp(0.502, 0.502))
    generator = torch.Generator().manual_seed(0)
    assert {schedule.draw(0.5, generator) for _ in range(64)} == {500, 501, 502}


def test_warm_start_begins_below_pure_noise_and_ends_lower():
    schedule = warm_schedule()
    assert schedule.bounds(0)[1] < cold_schedule().bounds(0)[0]
    assert schedule.bounds(1)[1] < schedule.bounds(0)[1]


@pytest.mark.parametrize(("position", "value"), [(-1, 2.0), (0.25, 2.0), (0.5, 3.0), (0.75, 4.0), (9, 4.0)])
def test_ramp(position, value):
    assert Ramp(2.0, 4.0, first=0.25, last=0.75).at(position) == pytest.approx(value)


def test_a_ramp_without_length_is_a_switch():
    assert [Ramp(0.0, 1.0, first=0.5, last=0.5).at(p) for p in (0.4, 0.5)] == [0.0, 1.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ramp(0, 1, first=1, last=0),
        lambda: TimestepSchedule(Ramp(0.5, 0.5), Ramp(0.4, 0.4)),
        lambda: TimestepSchedule(Ramp(0.0, 0.0), Ramp(1.0, 0.5)),
        lambda: TimestepSchedule(Ramp(-0.1, 0.0), Ramp(0.5, 0.5)),
    ],
)
def test_impossible_schedules_are_refused(make):
    with pytest.raises(ValueError, match=r"ramp|bound"):
        make()
