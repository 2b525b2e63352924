"""The Lightning in use: `pytorch_lightning` or `lightning.pytorch`, two names of one library.

A Trainer of either package calls callbacks by the names of their hooks, so one base class serves both. The package
that the program has already imported is used, because importing the other takes seconds. If both are imported, a
callback derives from both base classes, because LightningCLI accepts only classes of its own package.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback
    from pytorch_lightning import LightningModule as LightningModule
    from pytorch_lightning import Trainer as Trainer
    from pytorch_lightning.callbacks import EarlyStopping as EarlyStopping
    from pytorch_lightning.loggers import Logger as Logger
    from pytorch_lightning.loggers.logger import DummyLogger as DummyLogger
    from pytorch_lightning.utilities.seed import isolate_rng as isolate_rng
elif "lightning.pytorch" in sys.modules and "pytorch_lightning" not in sys.modules:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import EarlyStopping
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.loggers.logger import DummyLogger
    from lightning.pytorch.utilities.seed import isolate_rng
else:
    from pytorch_lightning import Callback, LightningModule, Trainer
    from pytorch_lightning.callbacks import EarlyStopping
    from pytorch_lightning.loggers import Logger
    from pytorch_lightning.loggers.logger import DummyLogger
    from pytorch_lightning.utilities.seed import isolate_rng

    if "lightning.pytorch" in sys.modules:
        from lightning.pytorch import Callback as _Other
        from lightning.pytorch.callbacks import EarlyStopping as _OtherStopping

        class Callback(Callback, _Other):
            """A callback of both packages."""

        class EarlyStopping(EarlyStopping, _OtherStopping):
            """The early stopping of both packages; their constructors do not call each other."""


__all__ = [
    "Callback",
    "DummyLogger",
    "EarlyStopping",
    "LightningModule",
    "Logger",
    "Trainer",
    "isolate_rng",
]
