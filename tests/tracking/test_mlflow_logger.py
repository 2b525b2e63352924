"""The MLflow logger against a real SQLite database."""

import functools
import math
import os
import signal
import time
import warnings
from pathlib import Path

import mlflow
import pytest
import pytorch_lightning as pl
import torch

from lr_plugins import InverseTimeDecay, LearningRateScheduler, LearningRateTrace
from lr_plugins.tracking import MLflowLogger
from lr_plugins.tracking.contents import BATCH
from lr_plugins.tracking.spool import spools
from lr_plugins.tracking.values import text_of
from tests import preloaded
from tests.toys import QUIET, Toy, fit, loader


@pytest.fixture
def logger(database, request, tmp_path):
    return MLflowLogger(request.node.name, tracking_uri=database, spool_dir=tmp_path / "spool")


def points(logger, name):
    history = mlflow.MlflowClient(logger.tracking_uri).get_metric_history(logger.run_id, name)
    return [(point.step, point.value) for point in history]


def status(logger):
    return mlflow.MlflowClient(logger.tracking_uri).get_run(logger.run_id).info.status


def test_every_point_is_recorded_in_float64(logger):
    scheduler = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1 / 3))
    trainer = fit(Toy(), scheduler, LearningRateTrace(), logger=logger, val=loader(8), num_sanity_val_steps=0)
    assert points(logger, "lr") == [(step, 0.1 / (1 + 1 / 3 * step)) for step in range(18)]
    assert [step for step, _ in points(logger, "loss")] == [5, 11, 17]
    assert points(logger, "val_loss")[-1][1] == float(trainer.callback_metrics["val_loss"])
    assert status(logger) == "FINISHED"


def test_many_points_are_sent_in_batches_without_loss(logger):
    for step in range(2 * BATCH + 500):
        logger.log_metrics({"lr": 1 / (step + 1)}, step=step)
    logger.finalize("success")
    assert points(logger, "lr") == [(step, 1 / (step + 1)) for step in range(2 * BATCH + 500)]


def test_params_are_flattened_and_long_ones_are_truncated(logger):
    logger.log_hyperparams({"model": {"hidden": [4, 6], "name": "mlp"}, "empty": {}, "long": "x" * 7000})
    logger.log_hyperparams({f"many.{index}": index for index in range(150)})
    logger.flush()
    params = mlflow.MlflowClient(logger.tracking_uri).get_run(logger.run_id).data.params
    assert params["model.hidden"] == "[4, 6]"
    assert params["empty"] == "{}"
    assert len(params["long"]) == 6000
    assert params["many.149"] == "149"


def test_artifacts_texts_and_tags(logger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts of a local database below the current folder
    logger.tags = {"schedule": "step_decay"}
    (tmp_path / "note.txt").write_text("hello")
    logger.log_artifact(tmp_path / "note.txt")
    logger.log_text("seed: 1", "config.yaml")
    logger.flush()
    client = mlflow.MlflowClient(logger.tracking_uri)
    assert [file.path for file in client.list_artifacts(logger.run_id)] == ["config.yaml", "note.txt"]
    assert client.get_run(logger.run_id).data.tags["schedule"] == "step_decay"


def test_names_mlflow_rejects_are_rewritten(logger):
    logger.log_metrics({"loss (train)": 1.0}, step=3)
    logger.flush()
    assert points(logger, "loss _train_") == [(3, 1.0)]


@pytest.mark.parametrize(
    ("error", "expected"), [(ValueError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(3), "KILLED")]
)
def test_failed_run_has_its_status_and_keeps_its_points(logger, error, expected):
    class Failing(Toy):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 8:
                raise error
            return super().training_step(batch, batch_idx)

    scheduler = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises((type(error), SystemExit)):
        fit(Failing(), scheduler, LearningRateTrace(), logger=logger)
    signal.signal(signal.SIGINT, before)  # Lightning leaves SIGINT ignored; a user's process would end here
    assert status(logger) == expected
    assert [step for step, _ in points(logger, "lr")] == list(range(8))
    assert len(points(logger, "loss")) == 1


def test_second_fit_continues_the_same_run(logger):
    module, scheduler = Toy(), LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1))
    trainer = fit(module, scheduler, LearningRateTrace(), logger=logger, epochs=1)
    seen = []

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            logger.flush()
            seen.append(status(logger))

    trainer.callbacks.append(Look())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader())
    assert seen == ["RUNNING"]
    assert status(logger) == "FINISHED"
    assert [step for step, _ in points(logger, "lr")] == list(range(12))


def test_nan_and_infinity_are_recorded(logger):
    logger.log_metrics({"loss": math.nan}, step=0)
    logger.log_metrics({"loss": math.inf}, step=1)
    logger.flush()
    (_, first), (_, second) = points(logger, "loss")
    assert math.isnan(first)
    assert second > 1e300  # the database stores infinity as a large number


def test_no_run_is_created_before_fit(logger):
    pl.Trainer(logger=logger, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    logger.finalize("success")
    assert logger.run_id is None
    assert mlflow.MlflowClient(logger.tracking_uri).get_experiment_by_name(logger.experiment_name) is None


def test_environment_variable_sets_the_uri(database, monkeypatch, request):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    logger = MLflowLogger(experiment_name=request.node.name)
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.finalize("success")
    assert mlflow.MlflowClient(database).get_run(logger.run_id).data.metrics == {"loss": 1.0}


# --- continued runs ---------------------------------------------------------------------------------------------


@pytest.fixture
def killed(logger):
    """A run whose process was killed: some points are sent and the run has not ended."""
    logger.log_hyperparams({"seed": 1, "epochs": 3})
    for step in range(5):
        logger.log_metrics({"lr": 1 / (step + 1), "loss": math.nan if step == 3 else float(step)}, step=step)
    logger.log_metrics({"loss": -math.inf}, step=5)
    logger.flush()
    return logger


def continued(logger):
    again = MLflowLogger(experiment_name="another", tracking_uri=logger.tracking_uri)
    assert again.continue_run(logger.run_id)
    return again


def test_a_continued_run_has_no_gaps_and_no_point_twice(killed, recwarn):
    again = continued(killed)
    again.log_hyperparams({"seed": 1, "epochs": 3})
    assert status(killed) == "RUNNING"
    for step in range(3, 8):
        again.log_metrics({"lr": 1 / (step + 1)}, step=step)
    for step, value in ((3, math.nan), (5, -math.inf), (6, 6.0)):
        again.log_metrics({"loss": value}, step=step)
    again.finalize("success")
    assert again.run_id == killed.run_id
    assert points(again, "lr") == [(step, 1 / (step + 1)) for step in range(8)]
    assert [step for step, _ in points(again, "loss")] == [0, 1, 2, 3, 4, 5, 6]
    assert status(again) == "FINISHED"
    assert not [warning for warning in recwarn if "another value" in str(warning.message)]
    tags = mlflow.MlflowClient(again.tracking_uri).get_run(again.run_id).data.tags
    assert tags["resumed"] == "1"
    assert continued(again).times_continued == 2


def test_conflicting_value_at_a_step_keeps_the_first_and_warns(killed):
    again = continued(killed)
    again.log_metrics({"lr": 0.75, "loss": 0.5}, step=1)
    again.log_metrics({"lr": 0.25}, step=7)
    with pytest.warns(UserWarning, match="2 points of MLflow run .* have another value now"):
        again.finalize("success")
    assert points(again, "lr")[1] == (1, 0.5)
    assert points(again, "lr")[-1] == (7, 0.25)


def test_continued_run_keeps_its_params_and_adds_new_ones(killed):
    again = continued(killed)
    again.log_hyperparams({"seed": 2, "epochs": 3, "new": 4})
    with pytest.warns(UserWarning, match=r"another value now than it has recorded: seed\. .* tags: resumed-1\.seed"):
        again.finalize("success")
    data = mlflow.MlflowClient(again.tracking_uri).get_run(again.run_id).data
    assert data.params == {"seed": "1", "epochs": "3", "new": "4"}
    assert {name: text for name, text in data.tags.items() if "resumed-" in name} == {"resumed-1.seed": "2"}


def test_missing_run_is_not_continued(killed, tmp_path):
    client = mlflow.MlflowClient(killed.tracking_uri)
    client.delete_run(killed.run_id)
    again = MLflowLogger(experiment_name="anew", tracking_uri=killed.tracking_uri)
    assert not again.continue_run(killed.run_id)
    assert not again.continue_run("0" * 32)
    again.log_metrics({"lr": 1.0}, step=0)
    again.finalize("success")
    assert again.run_id not in (None, killed.run_id)
    assert points(again, "lr") == [(0, 1.0)]


# --- one logger in several fits ----------------------------------------------------------------------------------


def test_repeated_validation_at_a_step_adds_a_point(logger):
    module = Toy()
    trainer = fit(module, logger=logger, epochs=1)
    for scale in (1.0, 3.0):
        module.layer.weight.data.fill_(scale)
        trainer.validate(module, loader(8), verbose=False)
    values = [value for step, value in points(logger, "val_loss") if step == 6]
    assert len(values) == len(set(values)) == 2


def test_second_trainer_warns_about_a_changed_param(logger):
    for rate in (0.1, 0.2):
        logger.log_hyperparams({"rate": rate, f"only {rate}": 1})
        scheduler = LearningRateScheduler(InverseTimeDecay(rate, decay_steps=1, decay_rate=1))
        if rate == 0.1:
            fit(Toy(), scheduler, LearningRateTrace(), logger=logger, epochs=1)
        else:
            with pytest.warns(UserWarning, match=r"another value now .*: rate\. .* tags: changed\.rate"):
                fit(Toy(), scheduler, LearningRateTrace(), logger=logger, epochs=1)
    assert len(points(logger, "lr")) == 12
    data = mlflow.MlflowClient(logger.tracking_uri).get_run(logger.run_id).data
    assert data.params == {"rate": "0.1", "only 0.1": "1", "only 0.2": "1"}
    assert data.tags["changed.rate"] == "0.2"


@pytest.mark.parametrize(
    ("ended", "stage", "expected"),
    [
        (RuntimeError("stop"), "test", "FAILED"),
        (KeyboardInterrupt(), "validate", "KILLED"),
        (RuntimeError("stop"), "fit", "FINISHED"),
    ],
)
def test_only_another_fit_completes_a_failed_run(logger, ended, stage, expected):
    module = Toy()
    module.test_step = module.validation_step
    trainer = pl.Trainer(**{**QUIET, "logger": logger}, max_epochs=1)

    def stop(*_):
        raise ended

    step, module.training_step = module.training_step, stop
    with pytest.raises((RuntimeError, SystemExit)):
        trainer.fit(module, loader())
    module.training_step = step
    trainer = pl.Trainer(**{**QUIET, "logger": logger}, max_epochs=1)
    getattr(trainer, stage)(module, loader(8))
    assert status(logger) == expected
    assert "val_loss" in mlflow.MlflowClient(logger.tracking_uri).get_run(logger.run_id).data.metrics or stage == "fit"


HOLDS_ITSELF: list = []
HOLDS_ITSELF.append(HOLDS_ITSELF)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.floor, "math.floor"),
        (Toy, "tests.toys.Toy"),
        (functools.partial(loader, samples=8), "functools.partial(tests.toys.loader, samples=8)"),
        ([torch.nn.functional.relu, 1], "[torch.nn.functional.relu, 1]"),
        (object(), "<object object>"),
        ((object(),), "(<object object>,)"),
        ("loaded at 0x10", "loaded at 0x10"),
        (HOLDS_ITSELF, "[[...]]"),
        ({"f": {math.floor, math.ceil}}, "{'f': {math.ceil, math.floor}}"),
        (lambda: 0, "tests.tracking.test_mlflow_logger.<lambda>"),
    ],
    ids=range(10),
)
def test_params_are_the_same_text_in_every_process(value, expected):
    assert text_of(value) == expected


def test_logging_after_a_failure_keeps_the_failed_status(logger, database, tmp_path):
    program = """
import sys
from lr_plugins.tracking import MLflowLogger
logger = MLflowLogger("after", tracking_uri=sys.argv[1])
logger.log_metrics({"loss": 1.0}, step=0)
logger.finalize("failed")
logger.log_metrics({"summary": 2.0}, step=0)
print(logger.run_id)
"""
    told = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = preloaded.run(["-c", program, database], tmp_path, told, 60)
    run_id, client = done.stdout.split()[-1], mlflow.MlflowClient(database)
    deadline = time.monotonic() + 60
    while "summary" not in client.get_run(run_id).data.metrics or client.get_run(run_id).info.status == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert client.get_run(run_id).info.status == "FAILED"


def test_renamed_metrics_keep_their_names_in_a_continued_run(logger):
    with pytest.warns(UserWarning, match="would have the same name"):
        logger.log_metrics({"acc@1": 1.0, "acc_1": 2.0}, step=0)
    logger.log_hyperparams({"a@b": "A", "a_b": "B"})
    logger.finalize("success")
    again = MLflowLogger(tracking_uri=logger.tracking_uri, run_id=logger.run_id, spool_dir=logger.spool_dir)
    again.log_hyperparams({"a_b": "B", "a@b": "A"})
    for name, value in {"acc_1": 2.5, "acc@1": 1.5}.items():
        again.log_metrics({name: value}, step=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.finalize("success")
    histories = {name: [value for _, value in points(again, name)] for name in ("acc_1", "acc_1-d20de105")}
    assert histories == {"acc_1": [1.0, 1.5], "acc_1-d20de105": [2.0, 2.5]}
    data = mlflow.MlflowClient(logger.tracking_uri).get_run(logger.run_id).data
    assert (sorted(data.params.values()), len(data.metrics)) == (["A", "B"], 2)


def test_resumed_run_separates_colliding_names(logger):
    logger.log_metrics({"acc_1": 1.0}, step=0)
    logger.log_hyperparams({"a_b": "A", "x": {"y": 1}})
    logger.finalize("success")
    again = MLflowLogger(tracking_uri=logger.tracking_uri, run_id=logger.run_id, spool_dir=logger.spool_dir)
    with pytest.warns(UserWarning, match="'acc_1' and 'acc@1' would have the same name"):
        again.log_metrics({"acc@1": 2.0}, step=1)
    with pytest.warns(UserWarning, match="'a_b' and 'a@b' would have the same name"):
        again.log_hyperparams({"a@b": "B", "a_b": "A", "x": {"y": 2}})
    with pytest.warns(UserWarning, match=r"another value now than it has recorded: x\.y\."):
        again.finalize("success")
    data = mlflow.MlflowClient(logger.tracking_uri).get_run(logger.run_id).data
    assert sorted(data.metrics.values()) == [1.0, 2.0]
    assert sorted(data.params.values()) == ["1", "A", "B"]
    assert data.tags["resumed-1.x.y"] == "2"


def test_params_with_equal_dotted_names_stay_separate(logger):
    with pytest.warns(UserWarning, match=r"params 'x\.y' and 'y' in 'x' would have the same name"):
        logger.log_hyperparams({"x.y": 1, "x": {"y": 2, "z": 3}})
    logger.log_hyperparams({"x": {"z": 3}, "x.z": 3})  # no warning: the value is the same
    logger.set_tag("a@b", 1)
    with pytest.warns(UserWarning, match="tags 'a@b' and 'a_b'"):
        logger.set_tag("a_b", 2)
    logger.finalize("success")
    data = mlflow.MlflowClient(logger.tracking_uri).get_run(logger.run_id).data
    assert sorted(data.params.values()) == ["1", "2", "3"]
    assert sorted(text for name, text in data.tags.items() if name.startswith("a_b")) == ["1", "2"]


def test_non_numeric_metric_is_skipped_with_a_warning(logger):
    with pytest.warns(UserWarning, match="leaves out the metric 'note': 'good' is not a number"):
        logger.log_metrics({"note": "good", "loss": 0.5}, step=0)
    logger.log_hyperparams(None)
    logger.finalize("success")
    assert points(logger, "loss") == [(0, 0.5)]


PROGRAM = """
import sys
from lr_plugins.tracking import MLflowLogger
logger = MLflowLogger("programs", tracking_uri=sys.argv[1], spool_dir=sys.argv[2])
logger.log_metrics({"loss": 0.5}, step=0)
if sys.argv[3] == "fails":
    raise ValueError("bad")
"""


@pytest.mark.parametrize(("end", "expected"), [("ends", "FINISHED"), ("fails", "FAILED")])
def test_program_exit_ends_an_open_run(database, end, expected, tmp_path):
    words = ["-c", PROGRAM, database, str(tmp_path / "spool"), end]
    process = preloaded.run(words, Path(__file__).parents[2], os.environ, 60)
    assert ("ValueError" in process.stderr) == (end == "fails")
    client = mlflow.MlflowClient(database)
    deadline = time.monotonic() + 60
    while spools(tmp_path / "spool") and time.monotonic() < deadline:
        time.sleep(0.1)
    [run, *_] = client.search_runs([client.get_experiment_by_name("programs").experiment_id])
    assert (run.info.status, run.data.metrics) == (expected, {"loss": 0.5})
