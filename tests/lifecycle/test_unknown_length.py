"""An unknown run length is refused before the first epoch, whenever it would be needed."""

import pytest
import pytorch_lightning as pl

from lr_plugins import (
    Annealed,
    Chain,
    Constant,
    CosineDecay,
    FunctionSchedule,
    LearningRateScheduler,
    PiecewiseInterpolation,
    ReduceLROnPlateau,
    StepDecay,
    WarmupStableDecay,
)
from lr_plugins.callbacks import KerasProgress
from lr_plugins.errors import TrainingError
from tests.toys import QUIET, Toy, Used, loader


class Stop(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == 1


def endless(schedule, capsys, **options):
    """The error, the output and the used rates of an endless run."""
    used = Used()
    callbacks = [KerasProgress(), LearningRateScheduler(schedule), used, Stop()]
    trainer = pl.Trainer(max_epochs=-1, callbacks=callbacks, **{**QUIET, **options})
    error = None
    try:
        trainer.fit(Toy(), loader(), loader())
    except TrainingError as raised:
        error = str(raised)
    return error, capsys.readouterr().out, [rate for rates in used.by_optimizer for rate in rates]


IN_PERCENT = {
    "cosine": CosineDecay(0.1),
    "warm-up": StepDecay(0.1, every="1ep").with_warmup("5%"),
    "drop": StepDecay(0.1, every="10%"),
    "points": PiecewiseInterpolation([[0, 0.1], ["50%", 0.01]]),
    "stable": WarmupStableDecay(0.1, warmup_steps="1ep", decay_steps="1ep"),
    "annealed": Annealed(Constant(0.1), after="1ep"),
    "fraction": FunctionSchedule(lambda fraction: 0.1, of="fraction"),
    "function": Constant(0.1).with_warmup("1ep", shape="linear")
    * FunctionSchedule(lambda epoch: 1.0).then(1.0, after="50%"),
    "only in two epochs' time": Chain([Constant(0.1), CosineDecay(0.1)], lengths=["2ep"]),
    "factor": ReduceLROnPlateau(0.1, monitor="val_loss") * CosineDecay(),
    "one of several": [Constant(0.1), CosineDecay(0.1)],
}


@pytest.mark.parametrize("schedule", IN_PERCENT.values(), ids=IN_PERCENT)
def test_percent_of_an_endless_run_is_refused_at_the_start(schedule, capsys):
    error, printed, used = endless(schedule, capsys)
    assert error is not None
    assert "unknown" in error
    assert "Trainer" in error
    assert "Epoch" not in printed
    assert used == []


WITHOUT = {
    "epochs": StepDecay(0.1, drop=0.5, every="1ep"),
    "steps": CosineDecay(0.1, decay_steps="10st"),
    "samples": CosineDecay(0.1, decay_steps="40sp"),
    "percent of a part": Chain([CosineDecay(0.1), Constant(0.0)], lengths=["10st"]),
    "a shape that fills its part": Chain([CosineDecay(0.1).with_warmup("0%"), Constant(0.0)], lengths=["40sp"]),
    "no warm-up": CosineDecay(0.1, decay_steps="10st").with_warmup("0%"),
}


@pytest.mark.parametrize("schedule", WITHOUT.values(), ids=WITHOUT)
def test_endless_run_trains_when_the_length_is_not_needed(schedule, capsys):
    error, printed, used = endless(schedule, capsys)
    assert error is None
    assert printed.count("Epoch ") == 2
    if "1ep" in repr(schedule):
        assert used == [0.1] * 6 + [0.05] * 6
    else:
        assert used == pytest.approx([CosineDecay(0.1, decay_steps="10st")(step) for step in range(12)])


def test_max_steps_give_the_length(capsys):
    error, _, used = endless(CosineDecay(0.1), capsys, max_steps=8)
    assert error is None
    assert used == [CosineDecay(0.1, decay_steps="8st")(step) for step in range(8)]
