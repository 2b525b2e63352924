"""The report of a comparison: tables, the learning rates, and the metrics with their spread over seeds."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lr_plugins.comparison.histories import Points
from lr_plugins.comparison.numbers import rounded
from lr_plugins.comparison.runs import Run, is_learning_rate
from lr_plugins.comparison.statistics import Standing, final_value, standings
from lr_plugins.errors import InvalidArgumentError, require
from lr_plugins.metric_direction import better, higher_is_better
from lr_plugins.plotting.learning_rate import plot_learning_rate

TABLE, PAGE = "comparison.csv", "comparison.md"
RATES, METRICS, ENDS = "learning_rates.png", "metrics.png", "ends.png"
_DIRECTIONS = {
    "max": "higher is better",
    "min": "lower is better",
    None: "lowest first; its name does not say which is better",
}
RUNS = "## Each run"  # the title of the part that is too long for the console


def compare(runs: Sequence[Run], folder: str | Path, metrics: Sequence[str] = ()) -> list[Path]:
    """Write a report: two tables (CSV, Markdown), and pictures of the learning rates, the metrics and the final values.

    Args:
        runs: at least one.
        folder: where to write it.
        metrics: the metrics to compare. Default: those of validation, or else of training.

    Raises:
        InvalidArgumentError: none of the runs has one of the metrics.
    """
    folder = Path(folder)
    there = {name for run in runs for name in run.curves}
    for name in metrics:
        if name not in there:
            raise InvalidArgumentError("metrics", name, f"metrics of the runs ({', '.join(sorted(there))})")
    folder.mkdir(parents=True, exist_ok=True)
    metrics = list(metrics) or _metrics_of(runs)
    files = [folder / TABLE, folder / PAGE]
    rankings = _rankings(runs, metrics)
    rows = [_row(run, metrics) for run in runs]
    with files[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    files[1].write_text(_page(runs, metrics, rankings), encoding="utf-8")
    rates = _rates(runs)
    if rates:
        files.append(plot_learning_rate(rates, folder / RATES))
    if metrics:
        files += [_plot_metrics(runs, metrics, folder / METRICS), _plot_ends(runs, rankings, folder / ENDS)]
    return files


def by_schedule(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each schedule, in their order."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.schedule, []).append(run)
    return groups


def page(runs: Sequence[Run], metrics: Sequence[str]) -> str:
    """The report as Markdown: each schedule's best values, a ranking by final values, and each run."""
    return _page(runs, metrics, _rankings(runs, metrics))


def _rankings(runs: Sequence[Run], metrics: Sequence[str]) -> dict[str, list[Standing]]:
    """The schedules ranked by the final values of each metric."""
    return {metric: standings(by_schedule(runs), metric) for metric in metrics}


def _page(runs: Sequence[Run], metrics: Sequence[str], rankings: Mapping[str, Sequence[Standing]]) -> str:
    lines = ["| schedule | runs | " + " | ".join(map(_best, metrics)) + " | seconds |"]
    lines += ["|---|---|" + "---|" * (len(metrics) + 1)]
    for schedule, group in by_schedule(runs).items():
        cells = [_spread([run.best(name) for run in group]) for name in metrics]
        seconds = _spread([run.seconds if run.seconds is not None else math.nan for run in group], digits=1)
        lines.append(f"| {_cell(schedule)} | {len(group)} | {' | '.join([*cells, seconds])} |")
    for metric, ranking in rankings.items() if len(by_schedule(runs)) > 1 else ():
        lines += ["", *_ranking(runs, metric, ranking)]
    heads = list(_row(runs[0], metrics))
    lines += ["", RUNS, "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(_cell(value) for value in _row(run, metrics).values()) + " |" for run in runs]
    return "\n".join(lines) + "\n"


def _ranking(runs: Sequence[Run], metric: str, ranking: Sequence[Standing]) -> list[str]:
    """A line per schedule, ranked by final values, and whether the differences could be due to chance."""
    heads = [
        f"{_cell(metric)} at the end ({_DIRECTIONS[better(metric)]})",
        "runs",
        "mean ± deviation",
        "95 % interval of the mean",
    ]
    lines = ["| " + " | ".join([*heads, "behind", "p"]) + " | |"]
    lines += ["|---" * 7 + "|"]
    for standing in ranking:
        spread = f" ± {rounded(standing.deviation)}" if not math.isnan(standing.deviation) else ""
        interval = f"{rounded(standing.low)} to {rounded(standing.high)}" if not math.isnan(standing.low) else ""
        p = "" if math.isnan(standing.p) else f"{standing.p:.2g}"
        mean = rounded(standing.mean) if standing.ended else _diverged(by_schedule(runs)[standing.schedule], metric)
        cells = [
            standing.schedule,
            standing.runs,
            f"{mean}{spread}",
            interval,
            rounded(standing.behind) if p else "",
            p,
        ]
        lines.append("| " + " | ".join([*map(_cell, cells), standing.verdict]) + " |")
    return lines


def _metrics_of(runs: Sequence[Run]) -> list[str]:
    names = list(dict.fromkeys(name for run in runs for name in run.curves if not is_learning_rate(name)))
    of_epochs = [name for name in names if not name.endswith("_step")]
    return [name for name in of_epochs if name.startswith("val")] or of_epochs


def _row(run: Run, metrics: Sequence[str]) -> dict[str, Any]:
    best = {_best(name): run.best(name) for name in metrics}
    ends = {f"last {name}": run.last(name) for name in metrics}
    last = {"last lr": run.last_learning_rate, "seconds": run.seconds, "status": run.status}
    return {"schedule": run.schedule, "seed": run.seed, **best, **ends, **last, "run": run.name, "id": run.run_id}


def _best(metric: str) -> str:
    """The label of a metric's best value, or of its lowest if its name does not tell which is better."""
    return f"{'best' if better(metric) else 'lowest'} {metric}"


def _diverged(runs: Sequence[Run], metric: str) -> str:
    """The final values of runs that have all diverged."""
    return " or ".join(dict.fromkeys(str(run.last(metric)) for run in runs))


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value) if value is not None else ""
    return text.replace("|", "\\|")  # a bare one would end the cell


def _spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean and standard deviation over the runs that have a finite value."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return "-"
    spread = f" ± {rounded(statistics.stdev(known), digits)}" if len(known) > 1 else ""
    missing = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return f"{rounded(statistics.mean(known), digits)}{spread}{missing}"


def _rates(runs: Sequence[Run]) -> dict[str, Points]:
    """One learning rate for each schedule: that of the first param group of its first run."""
    rates = {}
    for schedule, group in by_schedule(runs).items():
        curves = (points for run in group for name, points in run.curves.items() if is_learning_rate(name))
        first = next((points for points in curves if points.values.size), None)
        if first is not None:
            rates[f"lr/{schedule}"] = first
    return rates


def _plot_metrics(runs: Sequence[Run], metrics: Sequence[str], path: Path) -> Path:
    """A panel per metric with a line per schedule: the mean over its runs, shaded from the lowest to the highest."""
    require("matplotlib", "plot", "The comparison")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.4 * len(metrics)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(metrics), sharex=True, squeeze=False)[:, 0]
    for axes, metric in zip(panels, metrics, strict=True):
        for schedule, group in by_schedule(runs).items():
            _draw(axes, schedule, [run.curves[metric] for run in group if metric in run.curves])
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(loc="lower right" if higher_is_better(metrics[0]) else "upper right")
    panels[0].set_title("Mean over the runs of each schedule, and their range")
    panels[-1].set_xlabel("optimizer step")
    figure.savefig(path)
    return path


def _draw(axes: Any, schedule: str, curves: Sequence[Points]) -> None:
    values: dict[int, list[float]] = {}
    for curve in curves:
        # The last of several values at a step counts.
        for step, value in dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True)).items():
            values.setdefault(step, []).append(value)
    # Shown as far as all runs have values: where one ended early, the mean would jump.
    steps = np.array(sorted(step for step in values if len(values[step]) == len(curves)), np.int64)
    if not steps.size:  # runs of different lengths or batches have no steps in common
        for index, curve in enumerate(curves):
            [line] = axes.plot(curve.steps, curve.values, ".-", label=schedule if not index else None, linewidth=1.0)
    else:
        table = np.array([values[step] for step in steps.tolist()])
        [line] = axes.plot(steps, table.mean(1), ".-", label=f"{schedule} ({len(curves)})", linewidth=1.4)
        axes.fill_between(steps, table.min(1), table.max(1), color=line.get_color(), alpha=0.18, linewidth=0)


def _plot_ends(runs: Sequence[Run], rankings: Mapping[str, Sequence[Standing]], path: Path) -> Path:
    """A panel per metric with a row per schedule, best on top: the final values, their mean and its interval."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = by_schedule(runs)
    figure = Figure(figsize=(8.0, (0.9 + 0.32 * len(groups)) * len(rankings)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rankings), squeeze=False)[:, 0]
    for axes, (metric, ranking) in zip(panels, rankings.items(), strict=True):
        for row, standing in enumerate(ranking):
            finals = [final_value(run, metric) for run in groups[standing.schedule]]
            axes.plot(finals, [row] * len(finals), "o", color="tab:blue", alpha=0.35, markersize=5, markeredgewidth=0)
            half = 0.0 if math.isnan(standing.low) else standing.high - standing.mean
            axes.errorbar(standing.mean, row, xerr=half, fmt="|", color="black", markersize=9, capsize=3, linewidth=1.4)
        axes.set_yticks(range(len(ranking)), [standing.schedule for standing in ranking])
        axes.set_ylim(len(ranking) - 0.5, -0.5)
        axes.set_xlabel(f"{metric} at the end of each run, mean and its 95 % interval")
        axes.grid(alpha=0.3, axis="x")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    return path
