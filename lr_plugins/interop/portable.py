"""Copying and pickling the assignments of a `ScheduleLR`."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

from lr_plugins.schedules.assign import Assign, Assignments
from lr_plugins.schedules.schedule import Schedule


class Portable:
    """Assignments in a pickled state; a function that cannot be pickled raises an error that says what to do."""

    def __init__(self, assignments: Assignments) -> None:
        self.assignments = assignments

    def __deepcopy__(self, memo: dict[int, Any]) -> Portable:
        return Portable(copy.deepcopy(self.assignments, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        for function in _functions(self.assignments):
            try:
                pickle.dumps(function)
            except Exception as error:
                if _pickles_by_value():
                    break
                raise pickle.PicklingError(
                    f"a ScheduleLR cannot be pickled with {function.__qualname__} in its schedule: pickle looks "
                    "functions up by name in their module. Define it at the top level of a module, or save "
                    "scheduler.state_dict() and rebuild the scheduler (copy.deepcopy works)"
                ) from error
        return Portable, (self.assignments,)


def _functions(configured: Any) -> Iterator[FunctionType]:
    """The plain functions in the configuration of assignments and schedules."""
    if isinstance(configured, FunctionType):
        yield configured
    elif isinstance(configured, (Assignments, Assign, Schedule)):
        yield from _functions(configured.config())
    elif isinstance(configured, (Mapping, list, tuple)):
        for part in configured.values() if isinstance(configured, Mapping) else configured:
            yield from _functions(part)


def _pickles_by_value() -> bool:
    """Whether the current pickler stores the code of functions."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if {"cloudpickle", "dill"} & set(str(frame.f_globals.get("__name__")).split(".")):
            return True
    return False
