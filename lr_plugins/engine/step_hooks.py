"""Calls at every real step of an optimizer, whatever kind of optimizer it is.

An optimizer of torch announces its steps to torch's hooks. One that is none, or whose class torch has not prepared (a
Lookahead that leaves `Optimizer.__init__` out), gets its `step` wrapped while it is followed. An optimizer within
another (the base optimizer of SAM or Lookahead) belongs to that one: it may be the only one that ever steps.
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
    """What is called around each step of an optimizer that is followed."""

    def before_step(self, optimizer: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Arguments | None:
        """A step begins; its arguments, where they are to be others."""

    def after_step(self, optimizer: Any) -> None:
        """A step has been taken."""


_TORCH = Optimizer.profile_hook_step.__code__.co_filename  # the file in which steps are announced

_followers: dict[int, list[Follower]] = {}  # by the identity of an optimizer, until it is gone
_watchers: list[Callable[[Any], None]] = []
_strangers: dict[int, weakref.ref[Any]] = {}  # optimizers that no watcher has wanted, by their identity
_handles: list[Any] = []
_last_looks: dict[int, Any] = {}  # handles of hooks behind all others, by the identity of an optimizer


def weak_reference(one: Any, gone: Callable[[], None] = lambda: None) -> Callable[[], Any]:
    """A weak reference; of an object with slots that has no room for one, a strong one."""
    try:
        return weakref.ref(one, lambda _: gone())
    except TypeError:
        return lambda: one


class Following:
    """Follows an optimizer, and those within it, until `stop`. It keeps none of them alive.

    Args:
        optimizer: the optimizer.
        follower: is called around each of its steps.
    """

    def __init__(self, optimizer: Any, follower: Follower) -> None:
        self._follower = follower
        optimizers = [optimizer, *optimizers_within(optimizer)]
        self._references = [weak_reference(one, functools.partial(_leave, id(one), follower)) for one in optimizers]
        unhooked = [(one, _wrap_step(one)) for one in optimizers if not _calls_hooks(one)]
        self._wrapped = [(weak_reference(one), weakref.ref(step)) for one, step in unhooked if step is not None]
        for one in optimizers:
            _followers.setdefault(id(one), []).append(follower)
        _install()

    @property
    def optimizers(self) -> list[Any]:
        """The optimizers that it follows, the outermost first; those that are gone are left out."""
        return [one for reference in self._references if (one := reference()) is not None]

    @property
    def reaches_steps(self) -> bool:
        """Whether there is anything that announces a step."""
        return bool(self._wrapped) or any(map(_calls_hooks, self.optimizers))

    def has(self, optimizer: Any) -> bool:
        """Whether it follows an optimizer."""
        return any(one is optimizer for one in self.optimizers)

    def stop(self) -> None:
        """Follow no more; the optimizers are as they were."""
        for one in self.optimizers:
            _leave(id(one), self._follower)
        for reference, step in self._wrapped:
            _unwrap_step(reference(), step())
        self._references, self._wrapped = [], []
        _install()


def _leave(identity: int, follower: Follower) -> None:
    """Take a follower from those of an optimizer, which may be gone."""
    followers = _followers.get(identity, [])
    if follower in followers:
        followers.remove(follower)
    if not followers:
        _followers.pop(identity, None)
        if identity in _last_looks:
            _last_looks.pop(identity).remove()


def watch(found: Callable[[Any], None]) -> Callable[[], None]:
    """Tell of an optimizer that steps and is not followed, before its step; what comes back ends that.

    It is told once of each; `found` may follow it.
    """
    _strangers.clear()
    _watchers.append(found)
    _install()

    def stop() -> None:
        if found in _watchers:
            _watchers.remove(found)
        _install()

    return stop


def optimizers_within(optimizer: Any) -> list[Any]:
    """The optimizers that an optimizer holds, at any depth, whose parameters are its own as well.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> class Wrapper:
        ...     def __init__(self, base):
        ...         self.base, self.param_groups, self.step = base, base.param_groups, base.step
        >>> base = torch.optim.SGD([weight], lr=0.1)
        >>> optimizers_within(Wrapper(base)) == [base]
        True
    """
    mine, seen = parameters_of(optimizer), {id(optimizer)}

    def search(holder: Any) -> Iterator[Any]:
        for one in _held(holder):
            if id(one) in seen:
                continue
            seen.add(id(one))
            if parameters_of(one) & mine:
                yield one
            yield from search(one)

    return list(search(optimizer))


def _held(holder: Any) -> Iterator[Any]:
    """What looks like an optimizer among the attributes of an object, or in a list or dictionary there."""
    for name, value in list(getattr(holder, "__dict__", {}).items()):
        if name in ("state", "param_groups", "defaults"):
            continue
        many = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else [value]
        for one in many:
            if not isinstance(one, type) and hasattr(type(one), "step") and hasattr(one, "param_groups"):
                yield one


def parameters_of(optimizer: Any) -> set[int]:
    """The identities of an optimizer's parameters."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def calls_its_parents(optimizer: Any) -> bool:
    """Whether a step may announce itself several times: as a `step` that calls that of its parent class does."""
    steps = [vars(kind).get("step") for kind in type(optimizer).__mro__]
    return sum(bool(getattr(step, "hooked", False)) for step in steps) > 1


def is_stepping(optimizer: Any) -> bool:
    """Whether a step of an optimizer was under way before the one that has just been announced."""
    frame, steps = sys._getframe(), 0
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename == _TORCH and frame.f_locals.get("self") is optimizer:
            steps += frame.f_code.co_name == "wrapper"
    return steps > 1


# --- the calls --------------------------------------------------------------------------------------------------------


# A compiled `step` would be compiled together with its hooks, and anew for what they count.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _before_step(optimizer: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Arguments | None:
    followers = _followers.get(id(optimizer))
    if followers is None:
        followers = _found(optimizer)
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
    # Hooks of others come behind this one, and may write.
    if getattr(optimizer, "_optimizer_step_pre_hooks", None):
        _look_last(optimizer)
    return changed


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _after_step(optimizer: Any, *_: Any) -> None:
    for follower in _followers.get(id(optimizer), ()):
        follower.after_step(optimizer)


def _found(optimizer: Any) -> list[Follower] | None:
    """Who follows an optimizer that has not been known, once the watchers have been told of it."""
    known = _strangers.get(id(optimizer))
    if known is not None and known() is optimizer:
        return None
    for watcher in list(_watchers):
        watcher(optimizer)
    if id(optimizer) not in _followers:
        _strangers[id(optimizer)] = weakref.ref(optimizer)
    return _followers.get(id(optimizer))


def _look_last(optimizer: Any) -> None:
    """Let the followers look once more when all hooks of others are through."""
    hooks, handle = optimizer._optimizer_step_pre_hooks, _last_looks.get(id(optimizer))
    if handle is not None and next(reversed(hooks)) == handle.id:
        return
    if handle is not None:
        handle.remove()
    _last_looks[id(optimizer)] = optimizer.register_step_pre_hook(_look_again)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _look_again(optimizer: Any, *_: Any) -> None:
    for follower in _followers.get(id(optimizer), ()):
        look = getattr(follower, "look_again", None)
        if look is not None:
            look()


def _install() -> None:
    """Have torch's hooks for all optimizers as long as somebody is interested."""
    wanted = bool(_followers or _watchers)
    if wanted and not _handles:
        _handles.append(register_optimizer_step_pre_hook(_before_step))
        _handles.append(register_optimizer_step_post_hook(_after_step))
    elif not wanted:
        while _handles:
            _handles.pop().remove()


# --- optimizers without hooks -----------------------------------------------------------------------------------------


def _calls_hooks(optimizer: Any) -> bool:
    """Whether torch's hooks are called at the steps of an optimizer: its class has been prepared for that."""
    return (
        isinstance(optimizer, Optimizer)
        and hasattr(optimizer, "_optimizer_step_pre_hooks")
        and bool(getattr(type(optimizer).step, "hooked", False))
    )


def _wrap_step(optimizer: Any) -> Any:
    """Let a method of the object's own tell of its steps: that function, or None where the object takes none."""
    present: Any = getattr(vars(optimizer).get("step"), "__func__", None) if hasattr(optimizer, "__dict__") else None
    if getattr(present, "followers", 0):
        present.followers += 1
        return present
    original = optimizer.step

    def step(self: Any, *args: Any, **given: Any) -> Any:
        if not told.followers:  # somebody has kept it
            return original(*args, **given)
        changed = _before_step(self, (self, *args), given)
        if changed is not None:
            (_, *args), given = changed
        result = original(*args, **given)
        _after_step(self)
        return result

    told: Any = step
    told.followers, told.original = 1, original
    try:
        optimizer.step = types.MethodType(step, optimizer)
    except AttributeError:  # it has slots
        return None
    return told


def _unwrap_step(optimizer: Any, step: Any) -> None:
    if optimizer is None or step is None:  # gone
        return
    original: Any = step.original
    step.followers -= 1
    if step.followers or getattr(vars(optimizer).get("step"), "__func__", None) is not step:
        return  # where something has been put around it, it remains, and does nothing
    del optimizer.step
    if optimizer.step != original:  # it had a method of its own before
        optimizer.step = original
