"""Where runs are recorded: MLflow."""

from lr_plugins.tracking.mlflow_logger import MLflowLogger

__all__ = ["MLflowLogger"]
