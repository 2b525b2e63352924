"""Misuse of the command line: one clear message, a status that is not 0, and no run left behind as RUNNING."""

import os
import pickle
import re
import sys

import mlflow
import pytest
import torch
from hydra import main as hydra_main
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from lr_plugins._lightning.atomic_checkpoints import AtomicFiles
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.training.cli import explanation, readable_errors
from tests.training.test_main import ROOT
from tests.training.test_main import train as train_in


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('errors')}/mlflow.db"


@pytest.fixture
def _keep_captured_streams():
    """Hydra closes all log handlers, and absl's (Keras imports it) then closes its stream: here that of pytest."""
    if "absl.logging" in sys.modules:
        sys.modules["absl.logging"].get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture
def train(_keep_captured_streams, tmp_path, monkeypatch, capfd, database):
    """Run train.py's main in this process; gives (exit status, what a user reads on stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    @hydra_main(config_path=str(ROOT / "conf"), config_name="train", version_base="1.3")
    def main(config):
        from lr_plugins.training.run import train

        train(config)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *defaults(arguments), *arguments])
        status, message = 0, ""
        try:
            readable_errors(main, ROOT / "conf")
        except SystemExit as end:
            status, message = (end.code, "") if isinstance(end.code, int) else (1, str(end.code))
        finally:
            GlobalHydra.instance().clear()
        return status, capfd.readouterr().err + message

    yield run
    assert "HYDRA_FULL_ERROR" not in os.environ


def defaults(arguments):
    given = {word.split("=")[0] for word in arguments}
    return [word for word in ("data=fake", "trainer.max_epochs=2") if word.split("=")[0] not in given]


def statuses(database, experiment="lr_plugins"):
    client = mlflow.MlflowClient(database)
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else [run.info.status for run in client.search_runs([found.experiment_id])]


BEFORE_TRAINING = [
    (
        ["schedule=nope"],
        r"\nError: schedule=nope: schedule is chosen by the name of an option: .*, step_decay, [\w, ]*\.\n?$",
    ),
    (["schedule=step_decya"], r"an option: .*\. Did you mean step_decay\?\n?$"),
    (["schedule.dorp=0.3"], r"schedule\.dorp: no such field\. schedule has: initial_learning_rate, drop, every\."),
    (["schedule=piecewise", "schedule.drop=1"], r"schedule\.drop: no such field\. schedule has: boundaries, values\."),
    (
        ["+schedule.dorp=0.3"],
        r"unexpected keyword argument 'dorp'\. Its arguments are: initial_learning_rate, drop, every",
    ),
    (
        ["schedule.drop.typo=1"],
        r"schedule\.drop\.typo: schedule\.drop is 0\.5 and has no fields\. Set the value",
    ),
    (
        ["schedule=piecewise", "schedule.values.typo=1"],
        r"schedule\.values is a list and has elements 0 to 2, no typo",
    ),
    (
        ["schedule=piecewise", "schedule.values.typo.deeper=1"],
        r"schedule\.values is a list .*, no typo\. Set the",
    ),
    (["schedule=piecewise", "+schedule.values.typo=1"], r"schedule\.values is a list and has .*: schedule\.values=\["),
    (["schedule=piecewise", "schedule.values.3=1"], r"schedule\.values is a list and has elements 0 to 2, no 3\."),
    (["schedule=piecewise", "~schedule.values.typo"], r"schedule\.values is a list and has elements 0 to 2, no typo"),
    (["schedule=product", "schedule.schedules.one.drop=1"], r"schedule\.schedules is a list .* 0 to 1, no one\."),
    (["schedule=per_group", "schedule.assignments.no.params=1"], r"no schedule\.assignments\.no\. .* has: all, biases"),
    (["~schedule.typo"], r"'schedule\.typo' does not exist"),
    (["schedule.drop=${nope}"], r"schedule\.drop=\$\{nope\}: Interpolation key 'nope' not found\."),
    (["schedule.drop=${schedule.drop}"], r"schedule\.drop=.*: Recursive interpolation detected\."),
    (["schedule.drop=???"], r"schedule\.drop must be set: its value is \?\?\?\. Give it one: schedule\.drop=VALUE\."),
    (["schedule=null"], r"schedule=null: schedule is chosen by the name of an option: annealed, "),
    (["schedule=5"], r"schedule=5: schedule is chosen by the name of an option: annealed, "),
    (["schedule=[1]"], r"schedule=\[1\]: schedule is chosen by the name of an option: annealed, "),
    (["schedule..x=1"], r"schedule\.\.x=1: Hydra cannot read this override\. Write FIELD=VALUE"),
    (["+schedule._recursive_=x"], r"_recursive_ flag must be a bool"),
    (["schedule.every=1e-320ep"], r"StepDecay\.every must be a number > 0, .* A length is from 1e-12 to 1e\+300\."),
    (["schedule.drop=1e-320"], r"StepDecay\.drop must be a finite number > 0 .*; got 1e-320\. The smallest number"),
    (["sched.drop=1"], r"sched\.drop: there is no sched\. Fields are: seed, .*schedule"),
    (["schedule.drop=-1"], r"StepDecay\.drop must be a finite number > 0.*got -1"),
    (["schedule.drop=half"], r"StepDecay\.drop must be .*got 'half'"),
    (["schedule.every=3parsecs"], r"StepDecay\.every must be a number > 0, .*got '3parsecs'"),
    (["schedule=piecewise", "schedule.values=[1]"], r"PiecewiseConstant\.values must be one longer.*got \[1\]"),
    (["schedule=function", "schedule.function.path=no.such.module"], r"Error loading 'no\.such\.module'"),
    (
        ["schedule.every=5%", "trainer.max_epochs=-1"],
        r"5% is relative to the length of the run, .* set max_steps on the Trainer",
    ),
    (
        ["schedule=warmup_cosine", "trainer.max_epochs=-1"],
        r"5% is relative to the length of the run, .* set max_steps on the Trainer",
    ),
    (
        ["schedule=warmup_cosine", "schedule.warmup_steps=0.05"],
        r'Warmup\.warmup_steps must be .* got 0\.05\. .* mean "5%"\?',
    ),
    (["schedule.every=3epochs"], r'StepDecay\.every must be .* got \'3epochs\'\. Did you mean "3ep"\?'),
    (["optimizer.lr=-1"], r"optimizer\.lr must be a finite number >= 0; got -1"),
    (["optimizer=keras_sgd", "optimizer.momentum=2"], r"KerasSGD\.momentum must be .*got 2"),
    (["constraint=maxnorm"], r"constraint=maxnorm: .* an option: max_norm.* Did you mean max_norm\?"),
    (
        ["constraint=max_norm", "constraint.max=3"],
        r"constraint\.max: no such field\. constraint has: .*max_value, a",
    ),
    (["constraint=max_norm", "constraint.max_value=-1"], r"MaxNorm\.max_value must be a finite number >= 0; got -1"),
    (
        ["constraint=max_norm", "constraint.axis=[0,1,2]"],
        r"MaxNorm\.axis must be different axes of net\.7\.weight.*got",
    ),
    (
        ["constraint=non_neg", "constraint.params=kernel"],
        r"found in the name of a parameter \(net\.0.*got 'kernel'",
    ),
    (["constraint=non_neg", "constraint.params=3"], r"a regular expression for the names of parameters; got 3"),
    (["constraint=unit_norm", "constraint.layout=tf"], r"Constraints\.layout must be one of keras, torch; got 'tf'"),
    (["constraint=unit_norm", "+constraint.m=1"], r"unexpected keyword argument 'm'\. Its arguments are: axis"),
    (
        ["+constraint.max_value=3"],
        r"constraint must be null, or an option of the group, e\.g\. max_norm; got {",
    ),
    (["data.batch_size=0"], r"Fake\.batch_size must be an integer >= 1; got 0"),
    (["model=torchvision", "model.name=resnt18"], r"TorchvisionModel\.name must be .*got 'resnt18'.*resnet18"),
    (["trainer.max_epochs=many"], r"trainer\.max_epochs must be an integer >= -1.*got 'many'"),
    (["seed=one"], r"seed must be an integer from 0.*got 'one'"),
    (["num_threads=0"], r"num_threads must be an integer >= 1.*got 0"),
    (["callbacks.progress.verbose=3"], r"KerasProgress\.verbose must be 0 \(nothing\), 1 .* got 3"),
    (["style=keras4"], r"KerasProgress\.style must be one of keras2, keras3; got 'keras4'"),
    (["optimizer.lr=fast"], r"optimizer\.lr must be a finite number >= 0; got 'fast'"),
    (["ckpt_path=last"], r"no checkpoints/last\.ckpt below .*outputs\. Leave ckpt_path out to start a new run"),
    (["-m", "ckpt_path=last"], r"ckpt_path=last is ambiguous in a sweep: give the path of a checkpoint\."),
    (["ckpt_path=nope.ckpt"], r"ckpt_path must be a checkpoint file that exists.*got 'nope\.ckpt'"),
    (["experiment=digits_piecewise", "schedule=step_decay"], r"keyword argument 'boundaries'.*leave experiment= out"),
    (["hydra.run.dir=/proc/x"], r"hydra\.run\.dir: /proc/x: No such file or directory"),
    (["hydra.run.dir=/dev/null/x"], r"hydra\.run\.dir: /dev/null/x: Not a directory"),
    (
        ["hydra.mode=MULTIRUN", "hydra.sweep.dir=/proc/x", "logger=none"],
        r"hydra\.sweep\.dir: /proc/x: No such file or directory",
    ),
    (["output_dir=/proc/x", "logger=csv"], r"output_dir must be a folder \(.*No such file.*\); got '/proc/x'"),
    (["output_dir=/dev/null", "logger=none"], r"output_dir must be a folder \(.*\); got '/dev/null'"),
    (["hydra.mode=MULTIRUN", "launcher=slurm", "logger=none"], r"srun|sbatch"),
    (["logger.experiment_name=2024"], r"MLflowLogger\.experiment_name must be a string.*got 2024"),
    (
        ["callbacks.checkpoint.monitor=val_thing"],
        r"set callbacks\.checkpoint\.mode to min or max: it cannot be inferred from the name 'val_thing'",
    ),
    (["logger.tracking_uri=htp://foo"], r"MLflow at htp://foo: .* begins with http://"),
    (["callbacks.trace=5"], r"callbacks\.trace must be null, or a callback with a _target_; got 5"),
]


@pytest.mark.parametrize("value", ["0", "", "false"])
def test_only_one_asks_for_the_whole_error_as_with_hydra(train, monkeypatch, value):
    monkeypatch.setenv("HYDRA_FULL_ERROR", value)
    status, text = train("optimizer.lr=-1")
    assert (status, "Traceback" in text) == (1, False)
    assert "optimizer.lr must be a finite number >= 0; got -1" in text
    assert os.environ["HYDRA_FULL_ERROR"] == value
    monkeypatch.delenv("HYDRA_FULL_ERROR")


@pytest.mark.parametrize(("arguments", "message"), BEFORE_TRAINING, ids=[" ".join(one) for one, _ in BEFORE_TRAINING])
def test_impossible_setting_is_reported_before_a_run(train, database, arguments, message):
    before = statuses(database)
    status, text = train(*arguments)
    assert status == 1
    assert re.search(message, text, re.DOTALL), text
    assert "Traceback" not in text
    assert statuses(database) == before


def test_unsuitable_checkpoint_is_reported_before_a_run(train, database, tmp_path):
    assert train(f"output_dir={tmp_path}")[0] == 0
    last, before = tmp_path / "checkpoints/last.ckpt", statuses(database)
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    for arguments, message in (
        ([f"ckpt_path={last}", "new_run=true"], r"trainer\.max_epochs must be above 2, the epochs that .*; got 2"),
        ([f"ckpt_path={last}", "trainer.max_epochs=1"], r"trainer\.max_epochs must be at least 2, the .*; got 1"),
        ([f"ckpt_path={last}", "model=mlp"], r"ckpt_path must be a checkpoint of the same model"),
        ([f"ckpt_path={last}", "optimizer=sgd"], r"ckpt_path must be a checkpoint of the same optimizer.*nesterov"),
        ([f"ckpt_path={tmp_path}/text.ckpt"], r"ckpt_path must be a checkpoint of a Lightning run"),
    ):
        status, text = train(*arguments)
        assert status == 1
        assert re.search(message, text), text
    assert statuses(database) == before


WHILE_TRAINING = [
    (
        ["schedule=loss_driven", "schedule.monitor=val_los"],
        r"LossDriven\.monitor is 'val_los'.*logged metrics: acc, loss, val_acc, val_loss",
    ),
    (
        ["schedule=loss_driven", "optimizer=sgd", "optimizer.lr=1e30", "optimizer.momentum=0"],
        r"LossDriven needs a finite 'loss'; it is nan",
    ),
    (
        ["schedule=function", "schedule.function.path=builtins.repr"],
        r"the schedule function must return a finite number >= 0; repr\(0\) returned '0' of type str",
    ),
    (
        ["schedule.drop=1e10", "schedule.every=1st"],
        r"finite number >= 0; the schedule gives \S+ at step 5, and single pr",
    ),
    (["schedule.drop=1e200", "schedule.every=1st"], r"finite number >= 0; the schedule gives \S+ at step"),
    (["callbacks.trace.dirpath=/proc/nope"], r"LearningRateTrace\.dirpath must be a folder"),
    (["callbacks=early_stopping", "callbacks.early_stopping.monitor=val_f1"], r"val_f1.*not available"),
]


@pytest.mark.parametrize(("arguments", "message"), WHILE_TRAINING, ids=[" ".join(one) for one, _ in WHILE_TRAINING])
def test_what_only_training_shows_ends_the_run_as_failed(train, database, arguments, message):
    before = len(statuses(database))
    status, text = train(*arguments)
    assert status == 1
    assert re.search(message, text, re.DOTALL), text
    assert "Traceback" not in text
    after = statuses(database)
    assert len(after) == before + 1
    assert after[0] == "FAILED"


def test_what_is_no_users_error_keeps_its_traceback():
    def main():
        raise ZeroDivisionError("a fault of ours")

    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        readable_errors(main, ROOT / "conf")


@pytest.mark.parametrize("value", [-1, "word", None, [1, 2], object])
def test_an_error_of_another_process_says_the_same(value):
    error = InvalidArgumentError("optimizer.lr", value, "a finite number >= 0", "Set it.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def without_version(checkpoint):
    for state in checkpoint["callbacks"].values():
        state.pop("version", None)


EDITED = {
    "older": (without_version, r"has no version: an older version of lr_plugins wrote it"),
    "as b6709c9 wrote it": (
        lambda one: one["callbacks"].update(
            {"LearningRateScheduler": {"schedule": "StepDecay", "steps": [14], "state": None, "metrics": {}}}
        ),
        r"state of LearningRateScheduler has no version: an older version of lr_plugins",
    ),
    "newer": (
        lambda one: one["callbacks"]["History"].update(version=2),
        r"History is of version 2, .*Update lr_plugins",
    ),
    "steps": (
        lambda one: one["callbacks"]["LearningRateScheduler"].update(steps="x"),
        r"steps in .* must be a list; got 'x'",
    ),
    "run_id": (
        lambda one: one["callbacks"]["RecordConfig"].update(run_id="../../x"),
        r"run_id in .* must be the id of a run",
    ),
    "means": (lambda one: one.update(epoch_means=[{"sums": None}]), r"state of Classifier has no version"),
    "loader": (
        lambda one: one["loops"]["fit_loop"]["state_dict"].update(
            combined_loader=[{"version": 1, "epoch": -1, "batch": 0}]
        ),
        r"epoch in the checkpoint's state of Batches must be",
    ),
    "loops": (
        lambda one: one["loops"]["fit_loop"]["epoch_progress"]["total"].update(ready="x"),
        r"epoch_progress\.total\.ready must be a whole number >= 0; got 'x'",
    ),
    "optimizer": (
        lambda one: one["optimizer_states"][0]["param_groups"][0].update(params=[1]),
        r"ckpt_path must be a checkpoint of the same optimizer.*cannot be loaded",
    ),
    "a file to be removed": (
        lambda one: next(state for key, state in one["callbacks"].items() if "ModelCheckpoint" in key).update(
            best_k_models={"/x/checkpoints/../../home/mine": 1.0}
        ),
        r"The state of ModelCheckpoint in it cannot be loaded .*it names files elsewhere",
    ),
    "no callbacks' states": (
        lambda one: one.update(callbacks=[]),
        r"ckpt_path must be a checkpoint of a Lightning run",
    ),
    "no weights": (lambda one: one.update(state_dict={"a": 1}), r"ckpt_path must be a checkpoint of a Lightning run"),
    "no counts": (lambda one: one.update(global_step=None), r"ckpt_path must be a checkpoint of a Lightning run"),
    "Lightning": (
        lambda one: one.update({"pytorch-lightning_version": "?"}),
        r"must be a checkpoint of a Lightning run",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint of a run in another folder, which the tests copy."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = ["data=fake", "trainer.max_epochs=2", "logger=csv", "callbacks=silent"]
    train_in(folder, *arguments).check_returncode()
    [last] = folder.glob("outputs/*/*/checkpoints/last.ckpt")
    return last


@pytest.mark.parametrize("name", EDITED)
def test_edited_checkpoint_is_reported_before_a_run(train, database, whole, tmp_path, name):
    change, message = EDITED[name]
    checkpoint = torch.load(whole, weights_only=True)
    change(checkpoint)
    file = tmp_path / "run/checkpoints/last.ckpt"
    file.parent.mkdir(parents=True)
    torch.save(checkpoint, file)
    before, content = statuses(database), file.read_bytes()
    status, text = train(f"ckpt_path={file}", "data=fake")
    assert status == 1
    assert re.search(message, text), text
    assert "Traceback" not in text
    assert statuses(database) == before
    assert file.read_bytes() == content


def test_a_checkpoint_that_would_run_code_is_refused(train, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    file = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Evil()}, file)
    status, text = train(f"ckpt_path={file}")
    assert status == 1
    assert "ckpt_path must be a checkpoint of a Lightning run" in text
    with pytest.raises(pickle.UnpicklingError):
        AtomicFiles().load_checkpoint(file)
    assert not (tmp_path / "ran").exists()


def test_settings_that_cannot_be_used_are_one_error(train, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    (tmp_path / "checkpoints/settings.json").write_text('{"overrides": ["seed=1"')
    status, text = train("ckpt_path=checkpoints/last.ckpt")
    assert status == 1
    assert re.search(r"^Error: .*settings\.json cannot be used: it is not JSON", text, re.M)
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("plugin", "extra"),
    [("launcher/joblib", "train"), ("launcher/submitit_slurm", "slurm"), ("sweeper/optuna", "optuna")],
)
def test_missing_hydra_plugin_names_its_extra(plugin, extra):
    message = explanation(HydraException(f"In 'hydra/config': Could not find 'hydra/{plugin}'"), ROOT / "conf")
    assert message.endswith(f'\nIt is part of an extra: pip install -e ".[{extra}]"')
