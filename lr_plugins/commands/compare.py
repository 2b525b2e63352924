"""Compare runs, in MLflow or in a folder: `lr-plugins compare --experiment lr_plugins --out comparison`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lr_plugins.commands.imports import without_garbage_collection
from lr_plugins.comparison.report import PAGE, compare
from lr_plugins.comparison.run_files import find_run_files
from lr_plugins.comparison.runs import Run, find_runs
from lr_plugins.errors import LearningRateError, install


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: the words after `lr-plugins compare`.
    """
    parser = argparse.ArgumentParser(prog="lr-plugins compare", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--experiment", default="lr_plugins", help="all runs of an experiment; default lr_plugins")
    which.add_argument("--parent", metavar="ID", help="the runs of a sweep, by the id of its parent run")
    which.add_argument("--runs", metavar="ID", nargs="+", default=[], help="these runs")
    which.add_argument(
        "--folder", metavar="PATH", help="the runs of `lr-plugins train` below a folder, e.g. multirun/..."
    )
    parser.add_argument("--filter", default="", help="MLflow's filter for the runs: \"tags.data = 'iris'\"")
    parser.add_argument("--metrics", nargs="+", default=[], help="metrics to compare; default: those of validation")
    parser.add_argument("--out", default="comparison", help="folder for the table and the pictures; default comparison")
    parser.add_argument("--tracking-uri", help="where the runs are; default: MLFLOW_TRACKING_URI, or mlflow.db here")
    options = parser.parse_args(list(arguments))
    if options.runs and options.filter:
        parser.error("--filter cannot be combined with --runs")
    if options.folder and options.filter:
        parser.error("--filter is for runs in MLflow: it cannot be combined with --folder")
    try:
        runs = find_run_files(options.folder) if options.folder else _runs_of_mlflow(options)
        if not runs:
            sys.exit("Error: no runs were found.")
        files = compare(runs, options.out, options.metrics)
    except LearningRateError as error:
        sys.exit(f"Error: {error}")
    except OSError as error:
        sys.exit(f"Error: the folder --out {options.out} cannot be written ({error})")
    print(next(file for file in files if file.name == PAGE).read_text(encoding="utf-8"))
    print("\n".join(str(file) for file in files))


def _runs_of_mlflow(options: argparse.Namespace) -> list[Run]:
    try:
        with without_garbage_collection():
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
    except ModuleNotFoundError:
        sys.exit(f"lr-plugins compare needs mlflow, which is not installed: {install('mlflow')}")
    try:
        with without_garbage_collection():  # it imports what the address needs
            client = MlflowClient(options.tracking_uri)
        return find_runs(client, options.experiment, options.runs, options.parent, options.filter)
    except MlflowException as error:
        sys.exit(f"Error: {error}")
