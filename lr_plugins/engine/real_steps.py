"""The real steps of an optimizer, each of them once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from lr_plugins.engine.step_hooks import Arguments, Following, calls_its_parents, is_stepping, weak_reference


class RealSteps:
    """Follows one optimizer: calls `_begin_step` before each of its real steps, and `_end_step` after it.

    A step within a step (that of SAM's base optimizer, or of a parent class) belongs to the outer one. Steps that a
    gradient scaler skips, that fail, or that a search takes while it borrows the Trainer do not count.

    Args:
        optimizer: the optimizer, which is not kept alive.
    """

    capturable: bool = False
    """Whether what happens at a step belongs into a CUDA graph that captures it, and so to each of its replays.
    Counting does not: a captured step is not taken."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = weak_reference(optimizer)
        self.seen_steps = 0  # those that were announced while it followed
        self._following: Following | None = None
        self._under_way: list[int] = []  # the identities of optimizers whose steps have begun: one, and those within
        self._counts = True  # the step under way
        self._is_detached: Callable[[], bool] | None = None

    @property
    def optimizer(self) -> Any:
        """The optimizer; None where it is gone."""
        return self._optimizer()

    def follow(self, is_detached: Callable[[], bool] | None = None) -> None:
        """Start to follow the optimizer; steps taken while `is_detached` returns true are not part of the run."""
        self._is_detached = is_detached
        self._following = Following(self.optimizer, self)

    def detach(self) -> None:
        """Stop following it."""
        if self._following is not None:
            self._following.stop()
        self._following = None

    def follows(self, optimizer: Any) -> bool:
        """Whether it follows an optimizer: its own, or one within."""
        return self._following is not None and self._following.has(optimizer)

    @property
    def sees_steps(self) -> bool:
        """Whether there is anything that announces the optimizer's steps."""
        return self._following is not None and self._following.sees_steps

    @property
    def is_under_way(self) -> bool:
        """Whether a step has started and is not over."""
        return bool(self._under_way)

    def follow_inner(self) -> None:
        """Follow what the optimizer holds by now, too."""
        if self._following is not None:
            self._following.stop()
            self._following = Following(self.optimizer, self)

    def note_untracked_steps(self) -> None:
        """Code that could not be followed changes the weights within a step."""

    # --- a step -----------------------------------------------------------------------------------------------

    def before_step(self, optimizer: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Arguments | None:
        """A step starts, or one within it."""
        is_repeated = bool(self._under_way) and self._under_way[0] == id(optimizer)
        if is_repeated and not (calls_its_parents(optimizer) and is_stepping(optimizer)):
            self._under_way.clear()  # the step before has ended by an error
        if not self._under_way:
            # A step that is captured for a CUDA graph does not happen, and each replay would repeat what it writes.
            is_captured = _captures() and not self.capturable
            self._counts = not (is_captured or (self._is_detached is not None and self._is_detached()))
        self._under_way.append(id(optimizer))
        if not self._counts:
            return None
        self._begin_step()
        return self._after_closure(args, given)

    def recheck(self) -> None:
        """Ensure the values once more, after the hooks of others."""
        if self._under_way and self._counts:
            self._begin_step()

    def after_step(self, optimizer: Any) -> None:
        """A step is over; it has been taken when the steps around it are over, too."""
        if not self._under_way:
            return
        self._under_way.pop()
        if not self._under_way and self._counts and not _skipped(optimizer):
            self.seen_steps += 1
            self._end_step()

    def count_unseen_step(self) -> None:
        """Count a step that was not announced."""
        self._begin_step()
        self._end_step()

    def _after_closure(self, args: tuple[Any, ...], given: dict[str, Any]) -> Arguments | None:
        """A step's arguments with the closure wrapped: the step starts after it, because a module may write in it."""
        closure = given.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            return None

        @functools.wraps(closure)
        def then_begin() -> Any:
            try:
                loss = closure()
            except BaseException:
                self._under_way.clear()  # the end of the step is not announced
                raise
            if self._under_way and self._counts:
                self._begin_step()
            return loss

        if "closure" in given:
            return args, {**given, "closure": then_begin}
        return (args[0], then_begin, *args[2:]), given

    def _begin_step(self) -> None:
        """Called before a step, possibly several times for one."""

    def _end_step(self) -> None:
        """Called once a step has been taken."""


def _captures() -> bool:
    """Whether a CUDA graph is being captured."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]


def _skipped(optimizer: Any) -> bool:
    """Whether a fused optimizer has skipped the step under way, in its kernel, because a gradient was not finite.

    A gradient scaler leaves it the flag; only then is it looked at, for that waits for the device.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)
