"""The LightningModule's own door to the scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lr_plugins._lightning.compat import Callback
from lr_plugins.callbacks.learning_rate_scheduler import LearningRateScheduler, Measure
from lr_plugins.errors import InvalidArgument
from lr_plugins.schedules.assign import Schedules

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule as _Base
else:
    _Base = object


class LearningRateScheduleMixin(_Base):
    """Lets a LightningModule bring its learning-rate schedule along; the Trainer needs no callback.

    Name it before LightningModule in the bases, and either set the attribute `learning_rate_schedule` or override
    `configure_learning_rate_schedule`. It hands Lightning a `LearningRateScheduler` through `configure_callbacks`:
    the same engine, messages and checkpoint state. A LearningRateScheduler on the Trainer gives way to it.

    Attributes:
        learning_rate_schedule: the schedule, or a function of `epoch` or `(epoch, lr)`; or several, as in
            `LearningRateScheduler`.
        learning_rate_verbose: 1 prints Keras' message at each epoch's begin. Default 0.
        learning_rate_style: `"keras2"` (the default) or `"keras3"`, the form of the message.
        learning_rate_measure: quantities to measure for the schedule, as in `LearningRateScheduler`.
        learning_rate_on_resume: `"error"` (the default), `"config"`, `"checkpoint"` or `"rescale"`, as there.
        learning_rate_advice: whether to say the rule of thumb, as there. Default True.

    Raises:
        InvalidArgument: at the begin of the fit, when the module names no schedule; as the class is made, when
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
    learning_rate_style: str = "keras2"
    learning_rate_measure: Mapping[str, Measure] | None = None
    learning_rate_on_resume: str = "error"
    learning_rate_advice: bool = True

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse an order of bases in which Lightning would never hear of the schedule."""
        super().__init_subclass__(**arguments)
        names = [base.__name__ for base in cls.__mro__]
        if "LightningModule" in names and names.index("LightningModule") < names.index("LearningRateScheduleMixin"):
            raise InvalidArgument(
                f"the bases of {cls.__name__}",
                [base.__name__ for base in cls.__bases__],
                "in the order class Net(LearningRateScheduleMixin, LightningModule)",
            )

    def configure_learning_rate_schedule(self) -> Schedules:
        """The schedule of this module; override it to build one from what the module knows."""
        static = inspect.getattr_static(self, "learning_rate_schedule")
        # A plain function kept on the class would otherwise come back bound to the module.
        found = static if inspect.isfunction(static) else self.learning_rate_schedule
        if found is None:
            raise InvalidArgument(
                f"{type(self).__name__}.learning_rate_schedule",
                None,
                "a schedule, or a function of epoch or of (epoch, lr)",
                "Set the attribute, or override configure_learning_rate_schedule().",
            )
        schedule: Schedules = found
        return schedule

    def configure_callbacks(self) -> list[Callback]:
        """Lightning's hook: the callbacks of the module, with its scheduler."""
        others = super().configure_callbacks()
        return [*(others if isinstance(others, (list, tuple)) else [others]), self._scheduler()]

    def _scheduler(self) -> LearningRateScheduler:
        """One for the life of the module: Lightning asks at every fit, and the next goes on where the last ended."""
        schedule = self.configure_learning_rate_schedule()
        settings: dict[str, Any] = {
            "verbose": self.learning_rate_verbose,
            "style": self.learning_rate_style,
            "measure": self.learning_rate_measure,
            "on_resume": self.learning_rate_on_resume,
            "advice": self.learning_rate_advice,
        }
        known = vars(self).get("_learning_rate_scheduler")
        if known is not None and known[1:] == (schedule, settings):
            scheduler: LearningRateScheduler = known[0]
            return scheduler
        scheduler = LearningRateScheduler(schedule, **settings)
        vars(self)["_learning_rate_scheduler"] = (scheduler, schedule, settings)
        return scheduler
