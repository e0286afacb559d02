import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from gd_core.benchmark import bootstrap_mean, paired_difference, wilson_interval


def test_wilson_against_published_values():
    # Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29
    table = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
    for successes, n, low, high in table:
        estimate = wilson_interval(successes, n)
        assert (estimate.low, estimate.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    with pytest.raises(ValueError, match="n >= 1"):
        wilson_interval(0, 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_and_the_sign_test_are_scipys(case):
    estimate, (successes, n) = wilson_interval(*case), case
    reference = binomtest(successes, n)
    interval = reference.proportion_ci(method="wilson")
    assert (estimate.low, estimate.high) == (pytest.approx(interval.low, abs=1e-9), pytest.approx(interval.high, abs=1e-9))
    changed = paired_difference([0] * n, [1] * successes + [-1] * (n - successes))
    assert changed.p_value == pytest.approx(reference.pvalue)


def test_bootstrap_is_repeatable_and_near_the_normal_interval():
    values = [float(i % 10) for i in range(200)]
    estimate = bootstrap_mean(values)
    assert estimate == bootstrap_mean(values)
    half = 1.96 * 2.872 / 200**0.5
    assert estimate.value == 4.5 and estimate.low == pytest.approx(4.5 - half, abs=0.06)


def test_bootstrap_draws_whole_prompts():
    values, prompts = [0.0] * 10 + [1.0] * 10, ["a"] * 10 + ["b"] * 10
    assert (bootstrap_mean(values, prompts).low, bootstrap_mean(values, prompts).high) == (0.0, 1.0)
    assert bootstrap_mean(values).low > 0.2, "as if the seeds were independent"
    with pytest.raises(ValueError, match="20 values came with 3"):
        bootstrap_mean(values, ["a", "b", "c"])
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_mean([])


def test_paired_difference_is_mcnemars():
    a = [0] * 12 + [1] * 3 + [1] * 20
    b = [1] * 12 + [0] * 3 + [1] * 20
    result = paired_difference(a, b)
    assert (result.risen, result.fallen) == (12, 3)
    assert result.p_value == pytest.approx(0.03515625)  # 2 * P(X >= 12), X ~ B(15, 1/2)
    assert result.difference.value == pytest.approx(9 / 35)
    assert paired_difference([1, 1], [1, 1]).p_value == 1
    with pytest.raises(ValueError, match="as many values"):
        paired_difference([1], [1, 2])
