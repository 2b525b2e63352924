"""Keeps the states of the random number generators in checkpoints, so that a run resumes bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.distributed import gather_objects
from lr_plugins.checkpoint_state import (
    Check,
    KeepsState,
    StateFormat,
    WrongStateError,
    count,
    list_of,
    optional,
    real,
    record,
    tensor,
)
from lr_plugins.errors import described


def _of_python(state: Sequence[Any]) -> tuple[Any, ...]:
    version, numbers, gauss = state
    numbers = numbers.tolist() if isinstance(numbers, torch.Tensor) else numbers  # a list in earlier versions
    optional(real)(gauss, "gauss")  # Python does not check it
    return version, tuple(numbers), gauss


def _of_numpy(state: Sequence[Any]) -> tuple[Any, ...]:
    name, key, *rest = state
    key = key.cpu().numpy() if isinstance(key, torch.Tensor) else key  # a list in earlier versions
    return (name, np.array(key, dtype=np.uint32), *rest)


def _accepted(load: Callable[[Any], object], allowed: str) -> Check:
    """A check that a random number generator accepts a value as its state."""

    def checked(value: Any, where: str) -> None:
        try:
            load(value)
        except Exception:  # of many types, none of which says what is wrong
            raise WrongStateError(where, described(f"an invalid {type(value).__name__}"), allowed) from None

    return checked


_RANDOM: dict[str, Check] = {
    "python": _accepted(
        lambda state: random.Random().setstate(_of_python(state)), "a state of Python's random numbers"
    ),
    "numpy": _accepted(
        lambda state: np.random.RandomState().set_state(_of_numpy(state)),
        "a state of NumPy's random numbers",
    ),
    "torch": _accepted(lambda state: torch.Generator().set_state(state.cpu()), "a state of torch's random numbers"),
    "cuda": list_of(tensor("uint8", 1)),
}


class RandomStates(KeepsState, Callback):
    """Keep random number generator states in checkpoints: dropout continues as if training had never stopped.

    Each of several processes continues with its own states; if their number has changed, all continue with the first's.
    Put it last: numbers that other callbacks draw when training starts must not come from the restored states.

    Example:
        >>> states = RandomStates()
        >>> state = states.state_dict()
        >>> drawn = torch.rand(1)
        >>> states.load_state_dict(state)
        >>> states.on_train_start(None, None)
        >>> torch.equal(torch.rand(1), drawn)
        True
    """

    state_format = StateFormat("RandomStates", _RANDOM, {"by_rank": list_of(record(_RANDOM, {"version": count}))})

    def state_dict(self) -> dict[str, Any]:
        """The states of Python's, NumPy's and torch's generators; plain values and tensors."""
        version, numbers, gauss = random.getstate()
        name, key, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
        state = {
            # As tensors: torch.save calls a function of Python for each number of a list.
            "python": [version, torch.tensor(numbers), gauss],
            "numpy": [name, torch.from_numpy(np.asarray(key, dtype=np.int64)), *rest],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        return self.state_format.stamped(state)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the states of the other processes."""
        if trainer.world_size > 1:
            own_state: dict[str, Any] = checkpoint["callbacks"][self.state_key]
            own_state["by_rank"] = gather_objects(trainer, dict(own_state))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the states."""
        state = self.take_restored()
        if state is None:
            return
        by_rank = state.get("by_rank", ())
        if by_rank and len(by_rank) == trainer.world_size:
            state = by_rank[trainer.global_rank]
        random.setstate(_of_python(state["python"]))
        np.random.set_state(_of_numpy(state["numpy"]))  # noqa: NPY002
        torch.set_rng_state(state["torch"].cpu())
        if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state_of_device.cpu() for state_of_device in state["cuda"]])
