"""Hooks around every real step of an optimizer of any kind.

torch optimizers announce their steps to torch's hooks. For any other object, or one whose class torch has not patched
(a Lookahead that skips `Optimizer.__init__`), `step` is wrapped while the object is followed. Inner optimizers (the
base optimizer of SAM or Lookahead) are followed as well: an inner one may be the only one that ever steps.
"""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Follower(Protocol):
    """The callbacks around each step of a followed optimizer."""

    def before_step(self, optimizer: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Arguments | None:
        """A step starts; returns its new arguments, or None to keep them."""

    def recheck(self) -> None:
        """The hooks of other code have run before the step, and may have written."""

    def after_step(self, optimizer: Any) -> None:
        """A step has been taken."""


_TORCH = Optimizer.profile_hook_step.__code__.co_filename  # the file that announces steps

_followers: dict[int, list[Follower]] = {}  # by the id of an optimizer, while it exists
_watchers: list[Callable[[Any], None]] = []
_ignored: dict[int, weakref.ref[Any]] = {}  # optimizers that no watcher follows, by id
_handles: list[Any] = []
_recheck_handles: dict[int, Any] = {}  # hooks that run after all others, by the id of an optimizer


def weak_reference(target: Any, on_gone: Callable[[], None] = lambda: None) -> Callable[[], Any]:
    """A weak reference; a strong one if the object does not support weak references."""
    try:
        return weakref.ref(target, lambda _: on_gone())
    except TypeError:
        return lambda: target


class Following:
    """Follows an optimizer and its inner optimizers until `stop`, with weak references.

    Args:
        optimizer: the optimizer.
        follower: called around each of its steps.
    """

    def __init__(self, optimizer: Any, follower: Follower) -> None:
        self._follower = follower
        optimizers = [optimizer, *inner_optimizers(optimizer)]
        self._references = [
            weak_reference(optimizer, functools.partial(_remove_follower, id(optimizer), follower))
            for optimizer in optimizers
        ]
        unhooked = [(optimizer, _wrap_step(optimizer)) for optimizer in optimizers if not _calls_hooks(optimizer)]
        self._wrapped = [
            (weak_reference(optimizer), weakref.ref(step)) for optimizer, step in unhooked if step is not None
        ]
        for optimizer in optimizers:
            _followers.setdefault(id(optimizer), []).append(follower)
        _install()

    @property
    def optimizers(self) -> list[Any]:
        """The followed optimizers that still exist, the outermost first."""
        return [optimizer for reference in self._references if (optimizer := reference()) is not None]

    @property
    def sees_steps(self) -> bool:
        """Whether any step is announced."""
        return bool(self._wrapped) or any(map(_calls_hooks, self.optimizers))

    def has(self, optimizer: Any) -> bool:
        """Whether an optimizer is followed."""
        return any(followed is optimizer for followed in self.optimizers)

    def stop(self) -> None:
        """Stop following, and restore the optimizers."""
        for optimizer in self.optimizers:
            _remove_follower(id(optimizer), self._follower)
        for reference, step in self._wrapped:
            _unwrap_step(reference(), step())
        self._references, self._wrapped = [], []
        _install()


def _remove_follower(identity: int, follower: Follower) -> None:
    """Remove a follower of an optimizer, which may no longer exist."""
    followers = _followers.get(identity, [])
    if follower in followers:
        followers.remove(follower)
    if not followers:
        _followers.pop(identity, None)
        if identity in _recheck_handles:
            _recheck_handles.pop(identity).remove()


def watch(callback: Callable[[Any], None]) -> Callable[[], None]:
    """Call `callback` once for each unfollowed optimizer that is about to step; it may start to follow it.

    Returns:
        A function that stops watching.
    """
    _ignored.clear()
    _watchers.append(callback)
    _install()

    def stop() -> None:
        if callback in _watchers:
            _watchers.remove(callback)
        _install()

    return stop


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that an optimizer holds, at any depth, and that share parameters with it.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> class Wrapper:
        ...     def __init__(self, base):
        ...         self.base, self.param_groups, self.step = base, base.param_groups, base.step
        >>> base = torch.optim.SGD([weight], lr=0.1)
        >>> inner_optimizers(Wrapper(base)) == [base]
        True
    """
    parameters, seen = parameters_of(optimizer), {id(optimizer)}

    def search(holder: Any) -> Iterator[Any]:
        for candidate in _optimizers_in(holder):
            if id(candidate) in seen:
                continue
            seen.add(id(candidate))
            if parameters_of(candidate) & parameters:
                yield candidate
            yield from search(candidate)

    return list(search(optimizer))


def _optimizers_in(holder: Any) -> Iterator[Any]:
    """The optimizers in the attributes of an object, including those in lists and dictionaries."""
    for name, value in list(getattr(holder, "__dict__", {}).items()):
        if name in ("state", "param_groups", "defaults"):
            continue
        values = (
            value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else [value]
        )
        for candidate in values:
            if (
                not isinstance(candidate, type)
                and hasattr(type(candidate), "step")
                and hasattr(candidate, "param_groups")
            ):
                yield candidate


def parameters_of(optimizer: Any) -> set[int]:
    """The ids of an optimizer's parameters."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def calls_its_parents(optimizer: Any) -> bool:
    """Whether a step may be announced several times, because `step` calls that of its parent class."""
    steps = [vars(kind).get("step") for kind in type(optimizer).__mro__]
    return sum(bool(getattr(step, "hooked", False)) for step in steps) > 1


def is_stepping(optimizer: Any) -> bool:
    """Whether another step of the optimizer encloses the one that has just been announced."""
    frame, steps = sys._getframe(), 0
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename == _TORCH and frame.f_locals.get("self") is optimizer:
            steps += frame.f_code.co_name == "wrapper"
    return steps > 1


# --- the calls --------------------------------------------------------------------------------------------------------


# A compiled `step` would include its hooks, and would be recompiled whenever their counters change.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _before_step(optimizer: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Arguments | None:
    followers = _followers.get(id(optimizer))
    if followers is None:
        followers = _claim(optimizer)
        if followers is None:
            return None
    if len(followers) == 1:
        changed = followers[0].before_step(optimizer, args, given)
    else:
        changed = None
        for follower in list(followers):
            new = follower.before_step(optimizer, args, given)
            if new is not None:
                changed = args, given = new
    # Hooks of other code run after this one, and may write.
    if getattr(optimizer, "_optimizer_step_pre_hooks", None):
        _recheck_last(optimizer)
    return changed


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _after_step(optimizer: Any, *_: Any) -> None:
    for follower in _followers.get(id(optimizer), ()):
        follower.after_step(optimizer)


def _claim(optimizer: Any) -> list[Follower] | None:
    """The followers of an unknown optimizer, after calling the watchers."""
    known = _ignored.get(id(optimizer))
    if known is not None and known() is optimizer:
        return None
    for watcher in list(_watchers):
        watcher(optimizer)
    if id(optimizer) not in _followers:
        _ignored[id(optimizer)] = weakref.ref(optimizer)
    return _followers.get(id(optimizer))


def _recheck_last(optimizer: Any) -> None:
    """Call the followers again after the hooks of other code."""
    hooks, handle = optimizer._optimizer_step_pre_hooks, _recheck_handles.get(id(optimizer))
    if handle is not None and next(reversed(hooks)) == handle.id:
        return
    if handle is not None:
        handle.remove()
    _recheck_handles[id(optimizer)] = optimizer.register_step_pre_hook(_recheck)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _recheck(optimizer: Any, *_: Any) -> None:
    for follower in _followers.get(id(optimizer), ()):
        follower.recheck()


def _install() -> None:
    """Keep torch's global hooks registered while there are followers or watchers."""
    wanted = bool(_followers or _watchers)
    if wanted and not _handles:
        _handles.append(register_optimizer_step_pre_hook(_before_step))
        _handles.append(register_optimizer_step_post_hook(_after_step))
    elif not wanted:
        while _handles:
            _handles.pop().remove()


# --- optimizers without hooks -----------------------------------------------------------------------------------------


def _calls_hooks(optimizer: Any) -> bool:
    """Whether torch has patched the optimizer's class to call step hooks."""
    return (
        isinstance(optimizer, Optimizer)
        and hasattr(optimizer, "_optimizer_step_pre_hooks")
        and bool(getattr(type(optimizer).step, "hooked", False))
    )


def _wrap_step(optimizer: Any) -> Any:
    """Wrap the `step` of an object to announce its steps; None if its attributes cannot be set."""
    present: Any = getattr(vars(optimizer).get("step"), "__func__", None) if hasattr(optimizer, "__dict__") else None
    if getattr(present, "followers", 0):
        present.followers += 1
        return present
    original = optimizer.step

    def step(self: Any, *args: Any, **given: Any) -> Any:
        if not announced.followers:  # other code may keep a reference to the wrapper
            return original(*args, **given)
        changed = _before_step(self, (self, *args), given)
        if changed is not None:
            (_, *args), given = changed
        result = original(*args, **given)
        _after_step(self)
        return result

    announced: Any = step
    announced.followers, announced.original = 1, original
    try:
        optimizer.step = types.MethodType(step, optimizer)
    except AttributeError:  # it has slots
        return None
    return announced


def _unwrap_step(optimizer: Any, step: Any) -> None:
    if optimizer is None or step is None:  # gone
        return
    original: Any = step.original
    step.followers -= 1
    if step.followers or getattr(vars(optimizer).get("step"), "__func__", None) is not step:
        return  # other code has wrapped it: it remains, and does nothing
    del optimizer.step
    if optimizer.step != original:  # the instance had its own `step`
        optimizer.step = original
