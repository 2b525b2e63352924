"""A mixin for LightningModules that define their own learning-rate schedule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lr_plugins._lightning.compat import Callback
from lr_plugins._lightning.observations import Measure
from lr_plugins.callbacks.learning_rate_scheduler import LearningRateScheduler
from lr_plugins.console.keras_styles import Style
from lr_plugins.engine.audit import OnConflict
from lr_plugins.engine.resume_policy import OnResume
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.assign import Schedules

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule as _Base
else:
    _Base = object

_SETTINGS = [name for name in inspect.signature(LearningRateScheduler).parameters if name != "schedule"]


class LearningRateScheduleMixin(_Base):
    """Lets a LightningModule define its learning-rate schedule; the Trainer needs no callback.

    List it before LightningModule in the bases, and either set the attribute `learning_rate_schedule` or override
    `configure_learning_rate_schedule`. It returns a `LearningRateScheduler` from `configure_callbacks`, with the same
    engine, messages and checkpoint state. It replaces a LearningRateScheduler on the Trainer.

    Attributes:
        learning_rate_schedule: the schedule, or a function of `epoch` or `(epoch, lr)`; or several, as in
            `LearningRateScheduler`.
        learning_rate_verbose: 1 prints Keras' message at the start of each epoch. Default 0.
        learning_rate_style: `"keras2"` (the default) or `"keras3"`, the form of the message.
        learning_rate_measure: quantities to measure for the schedule, as in `LearningRateScheduler`.
        learning_rate_on_resume: what to do when a resumed run has another plan, as there. Default `"error"`.
        learning_rate_on_conflict: what to do when other code writes the learning rate, as there. Default `"ours"`.
        learning_rate_advice: whether to report departures from rules of thumb, or a function that receives them, as
            there.
            Default True.

    Raises:
        InvalidArgumentError: at the start of the fit, if the module defines no schedule; when the class is defined, if
            LightningModule comes first.

    Example:
        >>> import pytorch_lightning as pl
        >>> from lr_plugins import InverseTimeDecay, LearningRateScheduleMixin
        >>> class Net(LearningRateScheduleMixin, pl.LightningModule):
        ...     learning_rate_schedule = InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005)
        ...     learning_rate_verbose = 1
    """

    learning_rate_schedule: Schedules | None = None
    learning_rate_verbose: int = 0
    learning_rate_style: Style = "keras2"
    learning_rate_measure: Mapping[str, Measure] | None = None
    learning_rate_on_resume: OnResume = "error"
    learning_rate_on_conflict: OnConflict = "ours"
    learning_rate_advice: bool | Callable[[str], object] = True

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse base classes in an order in which Lightning would never call the mixin."""
        super().__init_subclass__(**arguments)
        names = [base.__name__ for base in cls.__mro__]
        if "LightningModule" in names and names.index("LightningModule") < names.index("LearningRateScheduleMixin"):
            raise InvalidArgumentError(
                f"the bases of {cls.__name__}",
                [base.__name__ for base in cls.__bases__],
                "in the order class Net(LearningRateScheduleMixin, LightningModule)",
            )

    def configure_learning_rate_schedule(self) -> Schedules:
        """The schedule of this module; override it to build one from the module's attributes."""
        schedule: Schedules | None = self._setting("learning_rate_schedule")
        if schedule is None:
            raise InvalidArgumentError(
                f"{type(self).__name__}.learning_rate_schedule",
                None,
                "a schedule, or a function of epoch or of (epoch, lr)",
                "Set the attribute, or override configure_learning_rate_schedule().",
            )
        return schedule

    def _setting(self, name: str) -> Any:
        """An attribute; a plain function in the class is returned as it is, not bound to the module."""
        static = inspect.getattr_static(self, name)
        return static if inspect.isfunction(static) else getattr(self, name)

    def configure_callbacks(self) -> list[Callback]:
        """Lightning's hook: the callbacks of the module, with its scheduler."""
        others = super().configure_callbacks()
        return [*(others if isinstance(others, (list, tuple)) else [others]), self._scheduler()]

    def _scheduler(self) -> LearningRateScheduler:
        """The same scheduler for every fit of the module, so that each fit continues where the last one ended."""
        schedule = self.configure_learning_rate_schedule()
        settings = {name: self._setting(f"learning_rate_{name}") for name in _SETTINGS}
        known = vars(self).get("_learning_rate_scheduler")
        if known is not None and known[1:] == (schedule, settings):
            scheduler: LearningRateScheduler = known[0]
            return scheduler
        scheduler = LearningRateScheduler(schedule, **settings)
        vars(self)["_learning_rate_scheduler"] = (scheduler, schedule, settings)
        return scheduler
