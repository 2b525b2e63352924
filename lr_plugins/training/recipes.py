"""Learning-rate functions copied verbatim from published scripts, oddities included.

They are plain functions of the epoch index (from 0), as Keras' `LearningRateScheduler` takes them.
"""

from __future__ import annotations

from math import floor

from lr_plugins.schedules.numerics import power
from lr_plugins.validation import number


def article_exponential(epoch: int, *, init_lrate: float = 0.01, drop: float = 0.05, epochs_drop: float = 10) -> float:
    """Exponential decay of the Iris script, which its text calls a step decay.

    lr = init_lrate * drop ** (floor(1 + epoch) / epochs_drop)

    Three oddities are kept, because the published result (loss 0.3393, accuracy 0.9000) depends on them:

    - `floor` is applied to `1 + epoch`, where it has no effect, instead of to the quotient. So the lr
      falls smoothly, by the factor `drop ** (1 / epochs_drop)` each epoch (0.741 with the defaults).
    - `1 + epoch` makes the first epoch run below `init_lrate` already (0.00741 with the defaults).
    - The text says "starts at 0.1 and halves every 10 epochs"; the code says 0.01 and 0.05.

    Args:
        epoch: epoch index, from 0.
        init_lrate: learning rate that epoch -1 would have, >= 0. Default 0.01.
        drop: factor per `epochs_drop` epochs, > 0. Default 0.05.
        epochs_drop: number of epochs over which the lr falls by the factor `drop`, > 0. Default 10.

    Raises:
        InvalidArgumentError: an argument is not a number within its range.

    Example:
        >>> article_exponential(9), round(article_exponential(0), 6)
        (0.0005, 0.007411)
    """
    number("article_exponential.init_lrate", init_lrate, "a finite number >= 0", at_least=0.0)
    number("article_exponential.drop", drop, "a finite number > 0", above=0.0)
    number("article_exponential.epochs_drop", epochs_drop, "a finite number > 0", above=0.0)
    return float(init_lrate * power(drop, floor(1 + epoch) / epochs_drop))


def article_mnist(epoch: int) -> float:
    """Three-step schedule of the MNIST script: 0.002, then 0.001 from epoch 3, then 0.0005 from epoch 5.

    Epochs are counted from 0 here and from 1 in the printed log, so the log shows the changes at "Epoch 4"
    and "Epoch 6". It was made for 469 updates per epoch; with far fewer it decays too early.

    Args:
        epoch: epoch index, from 0.

    Example:
        >>> [article_mnist(epoch) for epoch in (0, 2, 3, 5)]
        [0.002, 0.002, 0.001, 0.0005]
    """
    lrate = 0.002
    if epoch >= 3:
        lrate = 0.001
    if epoch >= 5:
        lrate = 0.0005
    return lrate
