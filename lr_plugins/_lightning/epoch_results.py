"""An epoch under way: what `self.log(..., on_epoch=True)` has summed up, which Lightning's checkpoints leave out."""

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
"""What `epoch_sums` gives, to be checked in a checkpoint: what reduces is called by its name."""


def is_within_epoch(trainer: Trainer) -> bool:
    """Whether some of an epoch's batches are done, and not all."""
    loop = trainer.fit_loop.epoch_loop
    return loop.batch_progress.current.ready > 0 and not are_batches_done(trainer)


def are_batches_done(trainer: Trainer) -> bool:
    """Whether all of an epoch's batches are done; its validation and its end may be to follow."""
    loop = trainer.fit_loop.epoch_loop
    batches: Any = loop.batch_progress.current
    # A batch that an exception has ended was ready, and is trained again when the run resumes.
    return bool(loop._num_ready_batches_reached()) and batches.processed >= batches.ready


def is_at_last_batch(trainer: Trainer) -> bool:
    """Whether an epoch's last batch is done, but its end is not: its validation, and its means."""
    epochs = trainer.fit_loop.epoch_progress.current
    return are_batches_done(trainer) and epochs.processed < epochs.started  # type: ignore[attr-defined]


def epoch_sums(trainer: Trainer) -> list[dict[str, Any]]:
    """The sums of the training epoch under way, as plain values and tensors.

    A metric that is logged as an object of torchmetrics is not among them: it has a state of its own.
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
    """Go on from sums, once training has begun."""
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
        # In what it takes for an epoch's first batch, Lightning would set them back.
        trainer._logger_connector._first_loop_iter = True


def epoch_means(sums: list[dict[str, Any]]) -> dict[str, float]:
    """What the sums of a whole epoch come to, by the names under which Lightning would have logged it."""
    means = {}
    for entry in sums:
        value = float(entry["value"] / entry["count"]) if entry["count"] is not None else float(entry["value"])
        means[entry["name"]] = value
        if entry["on_step"]:
            means[f"{entry['name']}_epoch"] = value
    return means


def means_of_all_processes(trainer: Trainer) -> dict[str, float]:
    """What the epoch comes to so far, with what is logged with `sync_dist` reduced; all processes have to call it."""
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
    """Whether a validation run comes after the batch that is being completed, and has not come yet."""
    fetcher = trainer.fit_loop._data_fetcher
    follows = fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
    return bool(follows and not trainer.validating)


def validate(trainer: Trainer) -> None:
    """Run the validation within a training, as Lightning does it at the end of an epoch."""
    connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop.val_loop
    first_batch = connector._first_loop_iter
    trainer.validating = True
    loop.run()
    trainer.training = True
    connector._first_loop_iter = first_batch


def metrics_so_far(results: Any) -> dict[str, Any]:
    """What a loop has logged so far, by the names under which Lightning logs it; tensors.

    Of what is logged for the epoch it is the mean (or sum, or whatever it reduces to) over the batches so far, in this
    process; of what is logged for steps only, and of an object of torchmetrics, which may take its time to compute, the
    value of the last batch, if it is logged for steps. Nothing is waited for.

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
    """Leave out `loss_step` and `loss_epoch` where Lightning made them of one `loss` logged for both."""
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
