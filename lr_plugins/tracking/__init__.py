"""Recording runs in MLflow.

The logger is imported when it is first used: the process that sends to MLflow needs neither torch nor Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lr_plugins.tracking.mlflow_logger import MLflowLogger as MLflowLogger

__all__ = ["MLflowLogger"]


def __getattr__(name: str) -> Any:
    if name != "MLflowLogger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lr_plugins.tracking.mlflow_logger import MLflowLogger

    return MLflowLogger
