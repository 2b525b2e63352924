"""The rule of thumb of the Iris article: start between 0.001 and 0.01, and decay at least 100x."""

from __future__ import annotations

LEAST_FALL = 100.0
"""The least ratio of the highest learning rate of a run to the last."""

LOWEST_START, HIGHEST_START, UNSAFE_START = 0.001, 0.01, 0.1
"""The range in which a learning rate should start, and the start at which plain networks often stop learning."""

_ROUNDING = 1e-9


def start_line(start: float, peak: float) -> str:
    """Advice on the starting learning rate; empty if none.

    Args:
        start: the first value.
        peak: the highest value, which counts as the start of a warm-up.

    Example:
        >>> start_line(0.01, 0.01)
        ''
        >>> start_line(0.0, 0.05)
        'lr rises to 0.05; as a rule of thumb it should start between 0.001 and 0.01'
    """
    if not peak or LOWEST_START * (1 - _ROUNDING) <= peak <= HIGHEST_START * (1 + _ROUNDING):
        return ""
    what = "starts at" if start >= peak * (1 - _ROUNDING) else "rises to"
    bounds = f"{LOWEST_START:g} and {HIGHEST_START:g}"
    line = f"lr {what} {peak:.4g}; as a rule of thumb it should start between {bounds}"
    if peak < UNSAFE_START * (1 - _ROUNDING):
        return line
    return f"{line}; at 0.1, 9 of 10 networks without normalization stopped learning on raw inputs (dead ReLUs)"


def fall_line(peak: float, last: float) -> str:
    """Advice on how far a learning rate decays; empty if none.

    Args:
        peak: the highest value.
        last: the last value.

    Example:
        >>> fall_line(0.1, 0.001)
        ''
    """
    if peak >= LEAST_FALL * last * (1 - _ROUNDING):  # 0.1 to 0.1 * 0.1 ** 2 is a hundredth but for rounding
        return ""
    alike = f"{peak:.4g}" == f"{last:.4g}"
    decay = f"ends at its peak, {peak:.4g}" if alike else f"decays {peak / last:.3g}x, from {peak:.4g} to {last:.4g}"
    return f"lr {decay}; as a rule of thumb it should decay at least {LEAST_FALL:g}x over a run"
