"""The objective that a run returns to Hydra's sweepers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.metric_direction import higher_is_better

_DEFAULT, _WITHOUT_VALIDATION = "val_loss", "loss"


def objective(name: str | None, values: Mapping[str, Mapping[int, float]]) -> float | None:
    """The last value of a metric, or the worst possible value if training has diverged.

    Args:
        name: the metric; None for no objective. If `val_loss` was not logged, `loss` is used instead, if available.
        values: the metrics' values by epoch.

    Raises:
        InvalidArgumentError: no such metric was logged.

    Example:
        >>> objective("val_acc", {"val_acc": {0: 0.5, 1: 0.75}}), objective("loss", {"loss": {0: math.nan}})
        (0.75, inf)
    """
    if name == _DEFAULT and name not in values:
        name = _WITHOUT_VALIDATION if _WITHOUT_VALIDATION in values else None
    if name is None:
        return None
    if name not in values:
        raise InvalidArgumentError(
            "objective", name, f"a metric that is logged ({', '.join(values) or 'there is none'})"
        )
    last = values[name][max(values[name])]
    if math.isfinite(last):
        return last
    return -math.inf if higher_is_better(name) else math.inf
