"""The sums that `self.log(..., on_epoch=True)` accumulates in an epoch; Lightning's checkpoints do not contain them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lr_plugins._lightning.compat import Trainer
from lr_plugins._lightning.distributed import gather_objects
from lr_plugins.checkpoint_state import flag, list_of, one_of, optional, record, tensor, text

_KEPT = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx")


SUMS = list_of(
    record(
        {
            **dict.fromkeys(("fx", "name"), text),
            **dict.fromkeys(_KEPT[2:], flag),
            **dict.fromkeys(("sync_dist", "rank_zero_only"), flag),
            "reduce_fx": one_of("mean", "sum", "min", "max"),
            "value": tensor(dimensions=0),
            "count": optional(tensor(dimensions=0)),
        }
    )
)
"""The form of `epoch_sums` in a checkpoint; a reduction is stored by its name."""


def is_within_epoch(trainer: Trainer) -> bool:
    """Whether some of the epoch's batches are done, but not all."""
    loop = trainer.fit_loop.epoch_loop
    return loop.batch_progress.current.ready > 0 and not are_batches_done(trainer)


def are_batches_done(trainer: Trainer) -> bool:
    """Whether all of the epoch's batches are done; its validation and its end may still follow."""
    loop = trainer.fit_loop.epoch_loop
    batches: Any = loop.batch_progress.current
    # A batch that raised an exception is ready but not processed; it is trained again when the run resumes.
    return bool(loop._num_ready_batches_reached()) and batches.processed >= batches.ready


def is_at_last_batch(trainer: Trainer) -> bool:
    """Whether the epoch's last batch is done, but its end (validation, means) is not."""
    epochs = trainer.fit_loop.epoch_progress.current
    return are_batches_done(trainer) and epochs.processed < epochs.started  # type: ignore[attr-defined]


def epoch_sums(trainer: Trainer) -> list[dict[str, Any]]:
    """The sums of the current training epoch, as plain values and tensors.

    Torchmetrics objects are not included: they keep a state of their own.
    """
    sums = []
    for item in trainer.fit_loop.epoch_loop._results.result_metrics:
        meta = item.meta
        if not item.is_tensor or item.has_reset or not meta.on_epoch or meta.dataloader_idx is not None:
            continue
        count = item.cumulated_batch_size.cpu() if meta.is_mean_reduction else None
        sums.append(
            {name: getattr(meta, name) for name in _KEPT}
            | {"reduce_fx": meta.reduce_fx.__name__, "value": item.value.cpu(), "count": count}
            | {"sync_dist": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only}
        )
    return sums


def restore_epoch_sums(trainer: Trainer, sums: list[dict[str, Any]]) -> None:
    """Continue from saved sums, after training has started."""
    results = trainer.fit_loop.epoch_loop._results
    for entry in sums:
        device = trainer.strategy.root_device
        value, count = entry["value"].to(device), entry["count"]
        settings = {name: entry[name] for name in (*_KEPT, "sync_dist", "rank_zero_only")}
        reduce_fx = getattr(torch, entry["reduce_fx"])
        reduce = trainer.strategy.reduce
        results.log(value=value, reduce_fx=reduce_fx, sync_dist_fn=reduce, batch_size=1, **settings)
        item = results[f"{entry['fx']}.{entry['name']}"]
        item.value = value
        if count is not None:
            item.cumulated_batch_size = count.to(device)
    if sums:
        # In what it takes for the first batch of an epoch, Lightning would reset them.
        trainer._logger_connector._first_loop_iter = True


def epoch_means(sums: list[dict[str, Any]]) -> dict[str, float]:
    """The means of a complete epoch, by the names under which Lightning would have logged them."""
    means = {}
    for entry in sums:
        value = float(entry["value"] / entry["count"]) if entry["count"] is not None else float(entry["value"])
        means[entry["name"]] = value
        if entry["on_step"]:
            means[f"{entry['name']}_epoch"] = value
    return means


def means_of_all_processes(trainer: Trainer) -> dict[str, float]:
    """The means of the epoch so far, reduced over the processes if logged with `sync_dist`. A collective call."""
    by_rank = gather_objects(trainer, epoch_sums(trainer))
    own = by_rank[trainer.global_rank]
    by_entry = [list(entries) for entries in zip(*by_rank, strict=False)]
    return epoch_means(
        [_reduced(entries) if entry["sync_dist"] else entry for entry, entries in zip(own, by_entry, strict=False)]
    )


def _reduced(entries: list[dict[str, Any]]) -> dict[str, Any]:
    first = entries[0]
    values = torch.stack([entry["value"] for entry in entries])
    value = getattr(values, first["reduce_fx"])() if first["reduce_fx"] in ("min", "max") else values.sum()
    return {
        **first,
        "value": value,
        "count": None if first["count"] is None else sum(entry["count"] for entry in entries),
    }


def validation_follows(trainer: Trainer) -> bool:
    """Whether a validation run is still to follow the batch that is being completed."""
    fetcher = trainer.fit_loop._data_fetcher
    follows = fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
    return bool(follows and not trainer.validating)


def validate(trainer: Trainer) -> None:
    """Run the validation during training, as Lightning does at the end of an epoch."""
    connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop.val_loop
    first_batch = connector._first_loop_iter
    trainer.validating = True
    loop.run()
    trainer.training = True
    connector._first_loop_iter = first_batch


def metrics_so_far(results: Any) -> dict[str, Any]:
    """The metrics that a loop has logged so far, as tensors, by the names under which Lightning logs them.

    A metric logged for the epoch is reduced over the batches so far, in this process. A metric logged only for steps
    has the value of the last batch. So has a torchmetrics object, which may be slow to compute, if it is logged for
    steps. No device is synchronized.

    Args:
        results: the loop's collection, e.g. `trainer.fit_loop.epoch_loop._results`.
    """
    metrics: dict[str, Any] = {}
    for item in results.result_metrics if results is not None else ():
        meta = item.meta
        if item.has_reset or meta.dataloader_idx is not None:
            continue
        value = _so_far(item)
        if value is not None:
            metrics[meta.name] = value
        if meta.forked:
            metrics |= {f"{meta.name}_step": item._forward_cache, f"{meta.name}_epoch": value}
    return {name: value for name, value in metrics.items() if value is not None}


def without_forks(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out `loss_step` and `loss_epoch` if Lightning created them from one `loss` logged for both."""
    kept = dict(metrics)
    for name in metrics:
        base, slash, loader = name.partition("/dataloader_idx_")
        plain = f"{base.removesuffix('_epoch')}{slash}{loader}"
        # Lightning puts one tensor under both names; a user's own `loss_epoch` is another tensor.
        if base.endswith("_epoch") and metrics.get(plain) is metrics[name]:
            del kept[name]
            kept.pop(f"{base.removesuffix('_epoch')}_step{slash}{loader}", None)
    return kept


def _so_far(item: Any) -> Any:
    if item.is_tensor and item.meta.on_epoch:
        return item.value / item.cumulated_batch_size if item.meta.is_mean_reduction else item.value
    return item._forward_cache if item.meta.on_step else None
