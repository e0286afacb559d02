"""The report's plots as inline SVG: no plotting library, and the page needs nothing but itself."""

from __future__ import annotations

import math
from html import escape

from .statistics import Estimate

SERIES = ("var(--s0)", "var(--s1)", "var(--s2)", "var(--s3)", "var(--s4)", "var(--s5)")
WIDTH, LABEL, ROW, PAD = 440, 128, 17, 10


def number(value: float, digits: int = 3) -> str:
    """A number for people: three significant digits, no exponent between 0.001 and a million."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{min(decimals, 4)}f}"
    return f"{value:.{digits - 1}e}"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def tick_label(value: float, ticks: list[float], is_rate: bool) -> str:
    """A tick with as many decimals as its scale's step needs."""
    if is_rate:
        return f"{100 * value:.0f} %"
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))  # steps are 1, 2 or 5 times a power of ten
    return f"{value:,.{decimals}f}" if decimals < 6 else f"{value:.1e}"


def shown(estimate: Estimate, is_rate: bool) -> str:
    """An estimate as text: value and interval."""
    form = percent if is_rate else number
    return f"{form(estimate.value)} [{form(estimate.low)}, {form(estimate.high)}]"


def _axis(low: float, high: float, is_rate: bool) -> tuple[float, float, list[float]]:
    """Bounds of a scale with some four round ticks inside."""
    if is_rate:
        return 0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5 * max(abs(low), 1e-3), high + 0.5 * max(abs(high), 1e-3)
    scale = 10 ** math.floor(math.log10((high - low) / 4))
    step = scale * next(round_number for round_number in (1, 2, 5, 10) if scale * round_number * 4 >= high - low)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, last * step, [k * step for k in range(first, last + 1)]


def interval_chart(rows: list[tuple[str, list[Estimate | None]]], is_rate: bool, zero: bool = False) -> str:
    """Dots with whiskers: one row a group, one dot a run, all on one scale.

    Args:
        rows: label and an estimate for each run (None: not measured there).
        zero: draw a line at 0, for differences.
    """
    estimates = [e for _, values in rows for e in values if e is not None]
    if not estimates:
        return ""
    low, high, ticks = _axis(min(e.low for e in estimates), max(e.high for e in estimates), is_rate)
    runs = max(len(values) for _, values in rows)
    row_height = max(ROW + 5, runs * 11 + 8)
    height = len(rows) * row_height + 26

    def x(value: float) -> float:
        return LABEL + PAD + (value - low) / (high - low) * (WIDTH - LABEL - 3 * PAD)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img">']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 18}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{height - 5}">{tick_label(tick, ticks, is_rate)}</text>')
    if zero and low <= 0 <= high:
        parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="2" y2="{height - 18}"/>')
    for index, (label, values) in enumerate(rows):
        middle = 4 + row_height * (index + 0.5)
        parts.append(f'<text class="label" x="{LABEL}" y="{middle + 4:.1f}">{escape(label)}</text>')
        for run, estimate in enumerate(values):
            if estimate is None:
                continue
            y = middle + 11 * (run - (len(values) - 1) / 2)
            colour = SERIES[run % len(SERIES)]
            title = f"<title>{escape(label)}: {escape(shown(estimate, is_rate))}, n = {estimate.n}</title>"
            parts.append(
                f'<g stroke="{colour}" fill="{colour}">{title}'
                f'<line stroke-width="2" x1="{x(estimate.low):.1f}" x2="{x(estimate.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<circle cx="{x(estimate.value):.1f}" cy="{y:.1f}" r="4"/></g>'
            )
    return "".join(parts) + "</svg>"


def histogram(values: list[float], bins: int = 24) -> str:
    """How often each value occurs, with the median marked."""
    low, high, ticks = _axis(min(values), max(values), False)
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    height, base, pad = 120, 98, 3 * PAD
    scale = (WIDTH - 2 * pad) / bins
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img">']
    for index, count in enumerate(counts):
        bar = 88 * count / max(counts)
        if count:
            parts.append(
                f'<rect class="bar" x="{pad + index * scale + 1:.1f}" y="{base - bar:.1f}" width="{scale - 2:.1f}" '
                f'height="{bar:.1f}" rx="2"><title>{count}</title></rect>'
            )
    for tick in ticks:
        place = pad + (tick - low) / (high - low) * (WIDTH - 2 * pad)
        parts.append(f'<text class="tick" x="{place:.1f}" y="{height - 6}">{tick_label(tick, ticks, False)}</text>')
    median = sorted(values)[len(values) // 2]
    place = pad + (median - low) / (high - low) * (WIDTH - 2 * pad)
    parts.append(f'<line class="zero" x1="{place:.1f}" x2="{place:.1f}" y1="4" y2="{base}"><title>median</title></line>')
    return "".join(parts) + "</svg>"
