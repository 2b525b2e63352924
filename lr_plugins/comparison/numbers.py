"""Numbers formatted for tables."""

from __future__ import annotations


def rounded(value: float, digits: int = 4) -> str:
    """A number with a fixed number of decimals, or in its shortest form if it is too large or too small for that.

    Example:
        >>> rounded(0.25), rounded(1e200), rounded(3.21e-5), rounded(float("inf"))
        ('0.2500', '1e+200', '3.21e-05', 'inf')
    """
    return f"{value:.{digits}f}" if value == 0.0 or 1e-3 <= abs(value) < 1e6 else f"{value:.4g}"
