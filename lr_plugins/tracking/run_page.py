"""The address of a run in MLflow's web interface."""

from __future__ import annotations

from lr_plugins.tracking.secrets import without_user
from lr_plugins.tracking.state import State


def run_address(state: State, part: str) -> str | None:
    """The address of a part of a run's page, with the command that serves it for a local database; None without a run.

    Args:
        state: what is known of the run.
        part: `"model-metrics"`, `"artifacts"` or `"overview"`.
    """
    if state.tracking_uri is None or state.run_id is None:
        return None
    server, _, _ = without_user(state.tracking_uri)
    # Without the workflow in the address, MLflow shows its pages for chatbots.
    path = f"#/experiments/{state.experiment_id}/runs/{state.run_id}/{part}?workflowType=machine_learning"
    if server.startswith("http"):
        return f"{server.rstrip('/')}/{path}"
    return f"mlflow ui, then http://127.0.0.1:5000/{path}"
