"""Follows the real steps of an optimizer, each exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lr_plugins.engine.step_hooks import Arguments, Following, calls_its_parents, is_stepping, weak_reference


class RealSteps:
    """Follows an optimizer: calls `_begin_step` before each of its real steps, and `_end_step` after it.

    A step within a step (that of SAM's base optimizer, or of a parent class) belongs to the outer one. Steps that a
    gradient scaler skips, that fail, or that a finder takes during the fit do not count.

    Args:
        optimizer: the optimizer; only a weak reference is kept.
    """

    capturable: bool = False
    """Whether a CUDA graph should capture what happens at a step, so that each replay repeats it. Counting must not
    be captured: capturing a step does not take it."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = weak_reference(optimizer)
        self.seen_steps = 0  # steps announced while following
        self._following: Following | None = None
        self._under_way: list[int] = []  # ids of the optimizers in a step: outer first
        self._counts = True  # whether the current step counts
        self._is_detached: Callable[[], bool] | None = None

    @property
    def optimizer(self) -> Any:
        """The optimizer; None if it no longer exists."""
        return self._optimizer()

    def follow(self, is_detached: Callable[[], bool] | None = None) -> None:
        """Start to follow the optimizer; steps taken while `is_detached` returns true are not part of the run."""
        self._is_detached = is_detached
        self._following = Following(self.optimizer, self)

    def detach(self) -> None:
        """Stop following the optimizer."""
        if self._following is not None:
            self._following.stop()
        self._following = None

    def follows(self, optimizer: Any) -> bool:
        """Whether an optimizer is followed: the outer one or an inner one."""
        return self._following is not None and self._following.has(optimizer)

    @property
    def sees_steps(self) -> bool:
        """Whether the optimizer's steps are announced at all."""
        return self._following is not None and self._following.sees_steps

    @property
    def is_under_way(self) -> bool:
        """Whether a step is in progress."""
        return bool(self._under_way)

    def follow_inner(self) -> None:
        """Follow the current inner optimizers as well."""
        if self._following is not None:
            self._following.stop()
            self._following = Following(self.optimizer, self)

    def note_untracked_steps(self) -> None:
        """Called if code that cannot be followed changes the weights within a step."""

    # --- a step -----------------------------------------------------------------------------------------------

    def before_step(self, optimizer: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Arguments | None:
        """A step starts, or a step within it."""
        is_repeated = bool(self._under_way) and self._under_way[0] == id(optimizer)
        if is_repeated and not (calls_its_parents(optimizer) and is_stepping(optimizer)):
            self._under_way.clear()  # the previous step has raised
        if not self._under_way:
            # Capturing a step in a CUDA graph does not take it, and each replay would repeat what is written.
            captures = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]
            is_captured = captures and not self.capturable
            self._counts = not (is_captured or (self._is_detached is not None and self._is_detached()))
        self._under_way.append(id(optimizer))
        if not self._counts:
            return None
        self._begin_step()
        closure = given.get("closure", args[1] if len(args) > 1 else None)
        return self._after_closure(closure, args, given) if callable(closure) else None

    def recheck(self) -> None:
        """Check the values again, after the hooks of other code."""
        if self._under_way and self._counts:
            self._begin_step()

    def after_step(self, optimizer: Any) -> None:
        """A step is over; it counts when the outermost step is over."""
        if not self._under_way:
            return
        self._under_way.pop()
        if not self._under_way and self._counts:
            # A gradient scaler sets the flag for a fused optimizer, which skips the step in its kernel if a gradient
            # was not finite. Reading the flag synchronizes with the device, so it is read only if set.
            found_inf = getattr(optimizer, "found_inf", None)
            if found_inf is None or not found_inf:
                self.seen_steps += 1
                self._end_step()

    def count_unseen_step(self) -> None:
        """Count a step that was not announced."""
        self._begin_step()
        self._end_step()

    def _after_closure(self, closure: Callable[[], Any], args: tuple[Any, ...], given: dict[str, Any]) -> Arguments:
        """The arguments with a wrapped closure: the step starts after the closure, which may write values."""

        def then_begin() -> Any:
            try:
                loss = closure()
            except BaseException:
                self._under_way.clear()  # the end of a failed step is not announced
                raise
            if self._under_way and self._counts:
                self._begin_step()
            return loss

        then_begin.__wrapped__ = closure  # type: ignore[attr-defined]  # functools.wraps would take 4 us of each step
        if "closure" in given:
            return args, {**given, "closure": then_begin}
        return (args[0], then_begin, *args[2:]), given

    def _begin_step(self) -> None:
        """Called before a step, possibly several times."""

    def _end_step(self) -> None:
        """Called once a step has been taken."""
