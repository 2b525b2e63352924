"""MLflow's client, as `MLflowLogger.experiment` gives it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lr_plugins.tracking.secrets import masked

if TYPE_CHECKING:
    from lr_plugins.tracking.mlflow_logger import MLflowLogger


def nothing(*_: Any, **__: Any) -> None:
    """Do nothing, whatever is given."""


class SilentClient:
    """Does nothing, whatever is asked."""

    def __getattr__(self, name: str) -> Any:
        return nothing


class RunClient:
    """MLflow's client of a logger's run, made when it is first used: to import MLflow takes a second or two."""

    def __init__(self, logger: MLflowLogger) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        from mlflow import MlflowClient

        logger = self._logger
        if logger._client is None:
            _ = logger.run_id  # so that the run is there, and the place is known
            logger._client = MlflowClient(logger.tracking_uri)
        found = getattr(logger._client, name)
        return _masking(found) if callable(found) else found


def _masking(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call whose errors do not show the password of the address that it asks."""

    @functools.wraps(call)
    def masking(*args: Any, **kwargs: Any) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return call(*args, **kwargs)
        except MlflowException as error:
            if masked(str(error)) == str(error):
                raise
            raise MlflowException(masked(str(error))) from None

    return masking
