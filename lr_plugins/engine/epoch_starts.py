"""The steps at which the epochs of a run actually started."""

from __future__ import annotations

from collections.abc import Sequence

from lr_plugins.schedules.position import EpochClock


class EpochStarts:
    """The optimizer steps at which epochs started, added as they start.

    Args:
        begins: the steps at which the epochs so far started, from epoch 0 on. Default: none.

    Example:
        >>> epochs = EpochStarts()
        >>> for epoch, step in enumerate([0, 4, 12]): epochs.begin(epoch, step, planned=4)
        >>> epochs.clock(size=8, planned=4)
        EpochClock(begins=(0, 4, 12, 20), step=0, epoch=0, ratio=1)
    """

    def __init__(self, begins: Sequence[int] = ()) -> None:
        self.begins = list(begins)
        self._planned, self._regular = 0.0, 0  # the first epochs known to start at multiples of the planned size

    def begin(self, epoch: int, step: int | None, planned: float) -> None:
        """Add an epoch that starts at a step; None if it started as planned.

        Unknown earlier epochs are assumed to have started as planned, if that is consistent with the step, or else to
        have had equally many steps each.
        """
        known = len(self.begins)
        if step is None:
            self.begins += [round(each * planned) for each in range(known, epoch + 1)]
            return
        del self.begins[epoch:]
        self._regular = min(self._regular, epoch)
        before = self.begins[-1] if self.begins else 0
        missing = epoch - len(self.begins)
        if missing and step == round(epoch * planned):
            self.begins += [round(each * planned) for each in range(len(self.begins), epoch)]
        else:
            first = len(self.begins) or 1
            steps = (step - before) / max(epoch - first + 1, 1)
            self.begins += [0] * (not self.begins and bool(epoch))
            self.begins += [round(before + steps * (each - first + 1)) for each in range(first, epoch)]
        self.begins.append(step)

    def clock(self, size: float, planned: float) -> EpochClock | None:
        """The clock that maps a step to its epoch; None if all epochs are as long as planned.

        Args:
            size: the number of steps in the current epoch.
            planned: the planned number of steps in each epoch.
        """
        begins = self.begins
        if planned != self._planned:
            self._planned, self._regular = planned, 0
        while self._regular < len(begins) and begins[self._regular] == self._regular * planned:
            self._regular += 1
        if self._regular == len(begins) and size == planned:
            return None
        return EpochClock((*begins, begins[-1] + size))
