"""What the preview says of a configuration is what a real training under it records, to the last bit."""

import subprocess
import sys

import pytest
import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from lr_plugins.errors import InvalidArgumentError, LearningRateError, TrainingError
from lr_plugins.training import sizes
from lr_plugins.training.planned import preview_of_config
from lr_plugins.training.run import train
from tests.training.test_main import ROOT


@pytest.fixture(name="config")
def _config(tmp_path):
    def configured(*overrides):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("train", ["logger=none", "callbacks=silent", f"output_dir={tmp_path}", *overrides])

    return configured


IRIS, DIGITS = ["data=iris", "model=mlp"], ["data=digits", "model=mlp"]
SHORT = ["trainer.max_epochs=3"]
TIMED = [
    [*IRIS, *SHORT, "schedule=warmup_cosine"],
    [*IRIS, *SHORT, "schedule=warmup_cosine", "schedule.warmup_steps=1ep", "optimizer=sgd"],
    [*IRIS, *SHORT, "schedule=function"],
    [*IRIS, *SHORT, "schedule=function", "schedule.function.path=tests.soak.functions.decay"],
    [*IRIS, *SHORT, "schedule=per_group", "schedule.assignments.biases.schedule.every=1ep"],
    [*IRIS, *SHORT, "schedule=one_cycle_momentum"],
    [*IRIS, *SHORT, "schedule=noise", "schedule.every=1st"],
    [*IRIS, *SHORT, "schedule=chain", "schedule.lengths=[37%]"],
    [*IRIS, *SHORT, "schedule=cosine", "trainer.accumulate_grad_batches=5"],
    [*IRIS, *SHORT, "schedule=cosine", "trainer.limit_train_batches=0.37", "data.batch_size=7"],
    [*IRIS, *SHORT, "schedule=cosine", "trainer.limit_train_batches=5"],
    [*IRIS, *SHORT, "schedule=cosine", "trainer.limit_train_batches=1.0", "data.validation_fraction=0.07"],
    [*IRIS, *SHORT, "schedule=cosine", "trainer.max_steps=50"],
    [*IRIS, "schedule=cosine", "trainer.max_epochs=-1", "trainer.max_steps=50"],
    [*IRIS, "schedule=linear", "trainer=fast_dev_run", "trainer.fast_dev_run=4"],
    [*IRIS, *SHORT, "schedule=linear", "+trainer.overfit_batches=3"],
    ["data=fake", "model=mlp", *SHORT, "schedule=tanh", "data.num_samples=100", "data.batch_size=16"],
    [*DIGITS, *SHORT, "schedule=inverse_time"],
    [*DIGITS, *SHORT, "schedule=cosine", "schedule.decay_steps=5000sp"],
    [*IRIS, *SHORT, "schedule=step_decay", "schedule.every=30sp", "data.batch_size=7"],
    [*IRIS, *SHORT, "schedule=step_decay", "schedule.every=45sp", "trainer.accumulate_grad_batches=3"],
    [*IRIS, *SHORT, "schedule=warmup_cosine", "schedule.warmup_steps=45sp", "trainer.limit_train_batches=0.37"],
    [*DIGITS, *SHORT, "schedule=cosine_restarts", "schedule.first_decay_steps=20"],
    [*DIGITS, *SHORT, "schedule=warmup_stable_decay"],
    [*DIGITS, *SHORT, "schedule=product"],
    ["experiment=iris_exponential", *SHORT],
    ["experiment=iris_inverse_time", *SHORT],
]


@pytest.mark.parametrize("overrides", TIMED, ids=" ".join)
def test_a_training_records_what_was_foreseen(config, overrides):
    configuration = config(*overrides)
    foreseen = preview_of_config(configuration, {}, None)
    trace = train(configuration).trace
    assert [line.name for line in foreseen.lines if line.name.startswith("lr")] == [
        name for name in trace if name.startswith("lr")
    ] or {line.name for line in foreseen.lines} == set(trace)
    for line in foreseen.lines:
        assert line.steps.tolist() == trace[line.name].steps.tolist()
        assert line.values.tolist() == trace[line.name].values.tolist()


FOLLOWING = [
    ("val_loss", [*DIGITS, "schedule=plateau", "schedule.patience=1", "schedule.min_delta=0.5"]),
    ("val_loss", [*IRIS, "schedule=greedy", "schedule.patience=0"]),
    ("val_loss", [*IRIS, "schedule=greedy", "schedule.patience=0", "trainer.check_val_every_n_epoch=2"]),
    ("val_loss", [*IRIS, "schedule=plateau_warmup", "schedule.schedule.schedules.1.patience=1"]),
    ("loss", [*IRIS, "schedule=loss_driven"]),
    ("loss", [*DIGITS, "schedule=loss_driven", "schedule.max_change=1.5"]),
    ("loss", [*IRIS, "schedule=bold_driver", "schedule.smoothing=2"]),
    ("val_loss", [*IRIS, "schedule=bold_driver", "schedule.monitor=val_loss", "schedule.when=validation"]),
    ("training_set_loss", ["experiment=iris_loss_driven"]),
]


@pytest.mark.parametrize(("metric", "overrides"), FOLLOWING, ids=[" ".join(one) for _, one in FOLLOWING])
def test_and_so_does_one_whose_metric_took_the_course_assumed(config, metric, overrides):
    epochs = 6
    configuration = config(*overrides, f"trainer.max_epochs={epochs}")
    run = train(configuration)
    logged = run.history.values[metric]
    measured = metric == "training_set_loss"  # at the begin of an epoch, before it

    def course(share):
        epoch = round(share * epochs) - (0 if measured else 1)
        return logged[epoch]

    foreseen = preview_of_config(configuration, {metric: course}, None)
    assert foreseen.values.tolist() == run.trace["lr"].values.tolist()
    assert len(set(foreseen.values.tolist())) > 1


def test_of_layers_the_highest_is_foreseen(config):
    configuration = config(*IRIS, *SHORT, "schedule=layer_decay")
    foreseen = preview_of_config(configuration, {}, None)
    trace = train(configuration).trace
    assert foreseen.values.tolist() == trace["lr/layer2"].values.tolist()
    assert foreseen.notes[1] == "lr is that of the highest layer; each layer below has 0.75 times as much"


class Validated(pl.Callback):
    """What each validation has logged, by the optimizer steps before it."""

    def __init__(self):
        self.values = {}

    def on_validation_end(self, trainer, pl_module):
        self.values[trainer.global_step] = float(trainer.callback_metrics["val_loss"])


@pytest.mark.parametrize("when", ["validation", "epoch"])
@pytest.mark.parametrize("interval", [6, 0.4])
def test_validations_within_epochs_are_observed_as_in_a_training(config, when, interval):
    configuration = config(
        *[*IRIS, *SHORT, "schedule=greedy", "schedule.patience=0", f"schedule.when={when}"],
        *[f"+trainer.val_check_interval={interval}", "trainer.accumulate_grad_batches=2"],
        "+callbacks.validated._target_=tests.training.test_planned.Validated",
    )
    run = train(configuration)
    (spy,) = (one for one in run.trainer.callbacks if type(one).__name__ == "Validated")
    assert len(spy.values) == (12 if interval == 6 else 6)
    foreseen = preview_of_config(configuration, {"val_loss": lambda share: spy.values[round(share * 36)]}, None)
    assert foreseen.values.tolist() == run.trace["lr"].values.tolist()
    assert len(set(foreseen.values.tolist())) > 1


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (
            ["data._target_=my.own.Data"],
            r"The size of my\.own\.Data is not known without reading it; only that of .*--steps-per-epoch N",
        ),
        (["trainer.devices=auto"], r"trainer\.devices is 'auto', and how many .*--steps-per-epoch N"),
        (["trainer.max_epochs=-1"], r"The run has no end: set trainer\.max_epochs or trainer\.max_steps\."),
        (["trainer.max_epochs=0"], r"Nothing is trained: trainer\.max_epochs is 0\."),
        (["trainer.max_steps=0"], r"Nothing is trained: trainer\.max_steps is 0\."),
        (["trainer.limit_train_batches=0.01"], r"limit_train_batches=0\.01 leaves none of the 45 batches of an epoch"),
        (["trainer.limit_train_batches=2.5"], r"trainer\.limit_train_batches must be an integer >= 1, or a share"),
        (["data.batch_size=0"], r"Digits\.batch_size must be an integer >= 1; got 0"),
        (["optimizer.lr=fast"], r"optimizer\.lr must be a finite number >= 0; got 'fast'"),
        (["callbacks.scheduler=null"], r"lr-plugins preview needs callbacks\.scheduler; it is null\."),
        (["~optimizer.lr"], r"StepDecay\.initial_learning_rate must be given .* or name one here"),
        (["schedule=plateau"], r"the course of val_loss must be given.*--metric val_loss=2\.3:0\.1"),
        (
            ["+callbacks.accumulate._target_=pytorch_lightning.callbacks.GradientAccumulationScheduler"],
            "GradientAccumulationScheduler changes the number of steps per epoch",
        ),
        (["+trainer.val_check_interval=00:15:00"], r"trainer\.val_check_interval is '00:15:00'"),
    ],
)
def test_what_cannot_be_foreseen_is_told(config, overrides, error):
    with pytest.raises(LearningRateError, match=error):
        preview_of_config(config(*overrides), {}, None)


def test_a_metric_of_validation_needs_one(config):
    with pytest.raises(TrainingError, match="'val_loss', and no metric of that name was logged"):
        preview_of_config(config("schedule=plateau", "data.validation_fraction=0"), {"val_loss": 1.0}, None)
    none = config("schedule=plateau", "schedule.when=validation", "data.validation_fraction=0")
    with pytest.raises(TrainingError, match="after each validation run, and this run has none"):
        preview_of_config(none, {"val_loss": 1.0}, None)


def test_steps_per_epoch_stand_in_for_data_of_unknown_size(config):
    foreseen = preview_of_config(config("data._target_=my.own.Data", "trainer.max_epochs=2"), {}, 100)
    assert (foreseen.run.steps, foreseen.notes) == (200, ("steps per epoch as given",))


def test_what_may_end_the_run_sooner_is_noted(config):
    notes = preview_of_config(config("callbacks=early_stopping", "+trainer.max_time=00:00:01:00"), {}, None).notes
    assert notes[1:] == (
        "callbacks.early_stopping may end the run sooner",
        "trainer.max_time may end the run sooner",
    )


def test_a_range_test_is_noted_if_what_it_finds_is_used(config):
    noted = "callbacks.lr_finder may replace optimizer.lr: the shape holds, the heights do not"
    searched = preview_of_config(config("callbacks=lr_finder", "schedule=cosine"), {}, None)
    assert searched.notes[1:] == (noted,)
    assert noted in str(searched)
    shown = config("callbacks=lr_finder", "schedule=cosine", "callbacks.lr_finder.apply=false")
    assert preview_of_config(shown, {}, None).notes[1:] == ()


@pytest.mark.parametrize("devices", [2, "2", "0,1", "0,1,", "0, 1, ", [0, 1]])
def test_processes_share_the_samples(config, devices):
    configuration = config("+trainer.num_nodes=2")
    configuration.trainer.devices = devices
    # 1437 samples among four: 360 each, in 12 batches of 32.
    assert preview_of_config(configuration, {}, None).run.steps_per_epoch == 12


def test_a_list_of_one_device_is_one_process(config):
    configuration = config()
    configuration.trainer.devices = "0,"
    assert preview_of_config(configuration, {}, None).run.steps_per_epoch == 45


@pytest.mark.parametrize("devices", [",", "", []])
def test_no_device_is_told(config, devices):
    configuration = config()
    configuration.trainer.devices = devices
    with pytest.raises(
        InvalidArgumentError, match=r"trainer\.devices must be a number of devices, or a list of at least one"
    ):
        preview_of_config(configuration, {}, None)


@pytest.mark.parametrize("name", ["iris", "digits", "fake"])
@pytest.mark.parametrize("fraction", [0, 0.07, 0.2])
def test_the_sizes_are_those_of_the_data(config, name, fraction):
    data = instantiate(config(f"data={name}", f"data.validation_fraction={fraction}").data)
    data.setup()
    total = data.num_train + data.num_val
    assert data.num_val == (sizes.held_out(total, fraction) if fraction else 0)
    assert total == sizes.SAMPLES.get(type(data).__name__, 256)
    assert len(data.train_dataloader()) == sizes.batches(data.num_train, data.batch_size)


def test_nothing_heavy_is_imported():
    code = (
        "import sys\n"
        "from lr_plugins import preview\n"
        "from lr_plugins.commands.preview import main\n"
        "main(['schedule=per_group', '--ascii'])\n"
        "heavy = {'torch', 'pytorch_lightning', 'lightning', 'mlflow', 'matplotlib', 'sklearn', 'pandas'}\n"
        "print('imported:', sorted(heavy & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "imported: []"
    assert process.stderr == ""
