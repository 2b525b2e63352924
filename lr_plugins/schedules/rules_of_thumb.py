"""The rule of thumb of the Iris article: start between 0.001 and 0.01, and fall a hundredfold or more."""

from __future__ import annotations

LEAST_FALL = 100.0
"""By how much a learning rate should fall over a run."""

LOWEST_START, HIGHEST_START, DEADLY_START = 0.001, 0.01, 0.1
"""Where a learning rate should start, and from where on plain networks rarely survive."""

_ROUNDING = 1e-9


def start_line(start: float, peak: float) -> str:
    """What is to be said of where a learning rate starts; an empty text where it is as it should be.

    Args:
        start: the first value.
        peak: the highest one: a warm-up starts there.

    Example:
        >>> start_line(0.01, 0.01)
        ''
        >>> start_line(0.0, 0.05)
        'lr rises to 0.05; the rule of thumb is a start from 0.001 to 0.01'
    """
    if not peak or LOWEST_START * (1 - _ROUNDING) <= peak <= HIGHEST_START * (1 + _ROUNDING):
        return ""
    what = "starts at" if start >= peak * (1 - _ROUNDING) else "rises to"
    line = f"lr {what} {peak:.4g}; the rule of thumb is a start from {LOWEST_START:g} to {HIGHEST_START:g}"
    if peak < DEADLY_START * (1 - _ROUNDING):
        return line
    return (
        f"{line}; at 0.1, nine of ten networks of the Iris recipe (no normalization, raw inputs) die: all units of a "
        "layer output 0"
    )


def fall_line(peak: float, last: float) -> str:
    """What is to be said of how far a learning rate falls; an empty text where that is far enough.

    Args:
        peak: the highest value.
        last: the last one.

    Example:
        >>> fall_line(0.1, 0.001)
        ''
    """
    if peak >= LEAST_FALL * last * (1 - _ROUNDING):  # 0.1 to 0.1 * 0.1 ** 2 is a hundredth but for rounding
        return ""
    alike = f"{peak:.4g}" == f"{last:.4g}"
    falls = f"ends at its peak, {peak:.4g}" if alike else f"falls {peak / last:.3g}-fold, {peak:.4g} to {last:.4g}"
    return f"lr {falls}; the rule of thumb is {LEAST_FALL:g}-fold or more over a run: a lower end, or a stronger decay"
