"""keras.EarlyStopping beside Lightning's own machinery: resuming, both packages, its place among the callbacks."""

from __future__ import annotations

import copy
import pickle

import lightning.pytorch as other
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import FSDPStrategy

from lr_plugins import KerasProgress
from lr_plugins.errors import InvalidArgumentError, UnsupportedError
from lr_plugins.keras import EarlyStopping
from tests.toys import QUIET, Toy, fit, loader

LOSSES = [1.0, 0.5, 0.7, 0.8, 0.9, 0.2]


class Replay(Toy):
    """Logs prescribed values at its own end of an epoch; the weights say which epoch they are of."""

    def training_step(self, batch, batch_idx):
        return self.compute_loss(batch)

    def on_train_epoch_end(self):
        with torch.no_grad():
            self.layer.weight.fill_(self.current_epoch)
        self.log("val_loss", LOSSES[self.current_epoch])


def stopping(**arguments):
    return EarlyStopping(**{"patience": 3, "verbose": 1, "restore_best_weights": True, **arguments})


def test_it_is_lightnings_early_stopping():
    callback = stopping()
    run = fit(Replay(), callback, epochs=6)
    assert run.early_stopping_callback is callback
    assert (run.current_epoch, callback.stopped_epoch, callback.best, callback.best_epoch) == (5, 4, 0.5, 1)


def test_in_a_trainer_of_the_other_package():
    class Net(other.LightningModule):
        compute_loss = Replay.compute_loss

        def training_step(self, batch, batch_idx):
            self.log("val_loss", LOSSES[self.current_epoch], on_step=False, on_epoch=True)
            return self.compute_loss(batch)

        def on_train_batch_end(self, *_):
            with torch.no_grad():
                self.layer.weight.fill_(self.current_epoch)

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback, module = stopping(), Net()
    run = other.Trainer(max_epochs=6, callbacks=[callback], **QUIET)
    run.fit(module, loader())
    assert (run.current_epoch, module.layer.weight.unique().item()) == (5, 1.0)


def test_best_weights_are_restored_after_the_fit(capsys):
    module = Replay()
    fit(module, stopping(), KerasProgress(metrics=["val_loss"]), epochs=6)
    assert module.layer.weight.unique().item() == 1.0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        " - 0s - val_loss: 0.9000",
        "Restoring model weights from the end of the best epoch",
        "Epoch 00005: early stopping",
    ]


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_a_resumed_run_stops_where_the_whole_one_does(tmp_path, epochs):
    first = fit(Replay(), stopping(), epochs=epochs)
    first.save_checkpoint(tmp_path / "some.ckpt")
    module, callback = Replay(), stopping()
    run = fit(module, callback, epochs=6, ckpt_path=tmp_path / "some.ckpt")
    assert (run.current_epoch, callback.best_epoch, module.layer.weight.unique().item()) == (5, 1, 1.0)


def test_another_fit_starts_over():
    callback = stopping()
    for _ in range(2):
        assert fit(Replay(), callback, epochs=6).current_epoch == 5


def test_run_continued_after_a_stop_is_not_reported_as_stopped(tmp_path, capsys, monkeypatch):
    fit(Replay(), stopping(), epochs=6).save_checkpoint(tmp_path / "stopped.ckpt")
    capsys.readouterr()
    monkeypatch.setitem(globals(), "LOSSES", [*LOSSES[:5], 0.2, 0.1, 0.05])
    callback = stopping()
    run = fit(Replay(), callback, epochs=8, ckpt_path=tmp_path / "stopped.ckpt")
    assert (run.current_epoch, callback.stopped_epoch) == (8, 0)
    assert capsys.readouterr().out == ""


def test_a_stop_by_another_callback_restores_nothing_in_keras_2(capsys):
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = True

    module = Replay()
    fit(module, stopping(), Stop(), epochs=6)
    assert capsys.readouterr().out == ""
    assert module.layer.weight.unique().item() == 0


def test_it_has_lightnings_names():
    callback = stopping()
    run = fit(Replay(), callback, epochs=3)
    assert (run.early_stopping_callback.wait_count, callback.wait) == (1, 1)
    assert callback.best_score.item() == callback.best == 0.5


def test_unlogged_metric_warns_once_and_is_not_counted():
    with pytest.warns(
        UserWarning, match="Early stopping conditioned on metric `val_acc` which is not available"
    ) as told:
        assert fit(Replay(), stopping(monitor="val_acc"), epochs=6).current_epoch == 6
    assert len([one for one in told if "conditioned" in str(one.message)]) == 1


def test_it_can_be_copied_and_pickled():
    callback = stopping()
    fit(Replay(), callback, epochs=3)
    for again in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert again.state_dict().keys() == callback.state_dict().keys()
        assert again.best == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"monitor": ""}, r"EarlyStopping\.monitor must be the name of a logged metric"),
        ({"patience": -1}, r"EarlyStopping\.patience must be an integer >= 0"),
        ({"mode": "lowest"}, r"EarlyStopping\.mode must be one of auto, min, max"),
        ({"verbose": "yes"}, r"EarlyStopping\.verbose must be an integer"),
        ({"verbose": -5}, r"EarlyStopping\.verbose must be an integer: 0 .* got -5"),
        ({"restore_best_weights": 1}, r"EarlyStopping\.restore_best_weights must be"),
        ({"style": "keras"}, r"EarlyStopping\.style must be one of keras2, keras3"),
        ({"monitor": "val_x", "style": "keras3"}, r"""EarlyStopping\.mode must be "min" or "max" for 'val_x'"""),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        EarlyStopping(**arguments)


def test_weights_in_parts_are_refused():
    class Sharded:
        strategy = FSDPStrategy.__new__(FSDPStrategy)

    with pytest.raises(UnsupportedError, match=r"does not support FSDPStrategy.* Use ModelCheckpoint"):
        stopping().setup(Sharded, Replay(), "fit")
