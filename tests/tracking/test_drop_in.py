"""Features that users of Lightning's MLFlowLogger and of MLflow autologging expect."""

import time

import mlflow
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lr_plugins import LearningRateScheduler, LearningRateTrace, StepDecay
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.tracking import MLflowLogger
from tests.toys import QUIET, Toy, fit, loader


@pytest.fixture
def make(database, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts of a local database below the current folder
    return lambda **options: MLflowLogger(request.node.name, tracking_uri=database, **options)


@pytest.fixture
def client(database):
    return mlflow.MlflowClient(database)


def artifacts(client, run_id, folder=None):
    return sorted(file.path for file in client.list_artifacts(run_id, folder))


def test_log_model_stores_checkpoints_and_the_model(make, client, database, tmp_path, monkeypatch):
    logger, module = make(log_model=True), Toy()
    module.forward = module.layer.forward
    module.example_input_array = torch.zeros(1, 3)
    saver = ModelCheckpoint(tmp_path / "kept", monitor="loss", save_last=True, filename="best")
    fit(module, saver, logger=logger, enable_checkpointing=True)
    assert artifacts(client, logger.run_id, "checkpoints") == ["checkpoints/best.ckpt", "checkpoints/last.ckpt"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    place = client.download_artifacts(logger.run_id, "model", str(tmp_path))
    assert "float32" in str(mlflow.models.get_model_info(place).signature.inputs)
    x = torch.ones(2, 3)
    np.testing.assert_array_equal(mlflow.pytorch.load_model(place)(x).detach(), module.layer(x).detach())


def test_log_model_all_stores_every_checkpoint(make, client, tmp_path):
    logger = make(log_model="all", checkpoint_path_prefix="weights")
    saver = ModelCheckpoint(tmp_path / "kept", filename="{epoch}", save_top_k=-1)
    fit(Toy(), saver, logger=logger, enable_checkpointing=True)
    assert artifacts(client, logger.run_id, "weights") == [f"weights/epoch={epoch}.ckpt" for epoch in range(3)]


def test_model_is_not_stored_by_default(make, client, tmp_path):
    logger = make()
    fit(Toy(), ModelCheckpoint(tmp_path / "kept"), logger=logger, enable_checkpointing=True)
    assert artifacts(client, logger.run_id) == []


@pytest.mark.parametrize("value", ["best", 2, None])
def test_log_model_accepts_three_values(make, value):
    with pytest.raises(InvalidArgumentError, match='log_model must be true, false or "all"'):
        make(log_model=value)


def test_names_have_the_prefix_and_artifacts_their_place(make, client, tmp_path):
    logger = make(prefix="first", artifact_location=f"file://{tmp_path}/elsewhere")
    logger.log_metrics({"loss": 0.5}, step=3)
    logger.log_text("hello", "note.txt")
    logger.finalize("success")
    assert client.get_run(logger.run_id).data.metrics == {"first-loss": 0.5}
    assert (tmp_path / "elsewhere" / logger.run_id / "artifacts/note.txt").read_text() == "hello"


def test_run_id_continues_that_run(make, client):
    first = make()
    first.log_metrics({"loss": 1.0}, step=0)
    first.finalize("success")
    again = make(run_id=first.run_id)
    again.log_metrics({"loss": 0.5}, step=1)
    again.finalize("success")
    assert again.run_id == first.run_id
    assert [point.value for point in client.get_metric_history(first.run_id, "loss")] == [1.0, 0.5]


def test_experiment_is_the_mlflow_client(make, client):
    logger = make()
    logger.experiment.log_param(logger.run_id, "mine", 3)
    logger.experiment.set_tag(logger.run_id, "note", "hello")
    logger.finalize("success")
    data = client.get_run(logger.run_id).data
    assert (data.params["mine"], data.tags["note"]) == ("3", "hello")


def test_a_dataset_is_an_input_of_the_run(make, client):
    logger = make()
    logger.log_dataset("Digits", "0123456789abcdef", "tests", profile={"num_train": 10})
    logger.finalize("success")
    [given] = client.get_run(logger.run_id).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("Digits", "0123456789abcdef")
    assert '"num_train": 10' in given.dataset.profile
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]


def test_log_system_metrics_records_cpu_usage(make, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    logger = make(log_system_metrics=True)
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.flush()
    time.sleep(3)
    logger.finalize("success")
    assert "system/cpu_utilization_percentage" in client.get_run(logger.run_id).data.metrics


def test_joined_active_run_is_not_ended_by_the_logger(client, database):
    mlflow.set_tracking_uri(database)
    mlflow.set_experiment("theirs")
    try:
        with mlflow.start_run() as theirs:
            logger = MLflowLogger(tags={"schedule": "mine"})
            fit(Toy(), LearningRateScheduler(StepDecay()), LearningRateTrace(), logger=logger)
            assert logger.run_id == theirs.info.run_id
            assert client.get_run(logger.run_id).info.status == "RUNNING"
        run = client.get_run(logger.run_id)
        assert (run.info.status, run.data.tags["schedule"]) == ("FINISHED", "mine")
        assert len(client.get_metric_history(logger.run_id, "lr")) == 18
    finally:
        mlflow.set_tracking_uri(None)


@pytest.mark.filterwarnings("ignore")
def test_autologging_does_not_duplicate_points(client, database):
    mlflow.set_tracking_uri(database)
    mlflow.set_experiment("autologged")
    mlflow.pytorch.autolog(log_models=False, checkpoint=False)
    try:
        logger = MLflowLogger()
        trainer = pl.Trainer(**{**QUIET, "logger": logger}, max_epochs=3, callbacks=[LearningRateTrace()])
        trainer.fit(Toy(), loader())
        [run] = client.search_runs([client.get_experiment_by_name("autologged").experiment_id])
        assert run.info.run_id == logger.run_id
        assert run.info.status == "FINISHED"
        assert [point.step for point in client.get_metric_history(logger.run_id, "loss")] == [5, 11, 17]
        assert len(client.get_metric_history(logger.run_id, "lr")) == 18
        assert run.data.params["optimizer_name"] == "SGD"  # autologging's own
        assert client.get_experiment_by_name("lr_plugins") is None
    finally:
        mlflow.pytorch.autolog(disable=True)
        mlflow.set_tracking_uri(None)
