"""Lightning's own callbacks and tools together with a scheduler."""

import csv
import itertools
import re

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.tuner import Tuner

from lr_plugins import (
    Assign,
    Constant,
    LearningRateScheduleMixin,
    LearningRateScheduler,
    LearningRateTrace,
    LinearDecay,
    ReduceLROnPlateau,
    RunLength,
    StepDecay,
)
from tests.toys import QUIET, Toy, Used, assert_used, fit, loader, plan

BY_EPOCH = StepDecay(0.1, every="1ep")
FALLING = LinearDecay(0.1)
EIGHTEEN = RunLength.of(steps_per_epoch=6, epochs=3)


def run(schedule, *callbacks, module=None, on_conflict="ours", **options):
    """Train with the scheduler after the other callbacks."""
    scheduler, used = LearningRateScheduler(schedule, on_conflict=on_conflict), Used()
    trainer = fit(module, *callbacks, scheduler, used, **options)
    return trainer, scheduler, used


# --- LearningRateMonitor ------------------------------------------------------------------------------------------


class Monitor(LearningRateMonitor):
    """A subclass by the user."""


def logged(folder, name="lr-SGD"):
    with (folder / "lightning_logs/version_0/metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def monitored(tmp_path, order, schedule, monitor):
    scheduler, used = LearningRateScheduler(schedule), Used()
    callbacks = [{"monitor": monitor, "scheduler": scheduler}[name] for name in order]
    fit(None, *callbacks, used, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    return scheduler, used


@pytest.mark.parametrize("kind", [LearningRateMonitor, Monitor])
@pytest.mark.parametrize("order", [("monitor", "scheduler"), ("scheduler", "monitor")], ids=["before", "after"])
@pytest.mark.parametrize("schedule", [BY_EPOCH, FALLING], ids=["by epoch", "by step"])
def test_monitor_logs_the_rate_of_steps_and_epoch_starts(tmp_path, order, schedule, kind):
    planned = plan(schedule, [6] * 3, EIGHTEEN)
    for interval, expected in (("step", planned), ("epoch", planned[::6])):
        scheduler, used = monitored(tmp_path / interval, order, schedule, monitor=kind(interval))
        assert_used(planned, scheduler, used)
        assert logged(tmp_path / interval) == pytest.approx(expected, rel=1e-6)


def test_monitor_logs_a_plateau_decision_at_the_epoch_start(tmp_path):
    plateau = ReduceLROnPlateau(0.1, monitor="loss", mode="max", factor=0.5, patience=1)  # the loss falls
    scheduler, used = monitored(tmp_path, ("monitor", "scheduler"), plateau, monitor=LearningRateMonitor("epoch"))
    assert_used([0.1] * 12 + [0.05] * 6, scheduler, used)
    assert logged(tmp_path) == [0.1, 0.1, 0.05]


def test_the_monitor_follows_the_scheduler_of_a_module(tmp_path):
    class Net(LearningRateScheduleMixin, Toy):
        learning_rate_schedule = BY_EPOCH

    fit(Net(), LearningRateMonitor("epoch"), logger=CSVLogger(tmp_path))
    assert logged(tmp_path) == [0.1, 0.05, 0.025]


# --- learning-rate search -----------------------------------------------------------------------------------------


class Findable(Toy):
    def __init__(self):
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=self.lr))
        self.lr = 0.1


class Later(LearningRateFinder):
    """Searches at the start of an epoch, as in Lightning's documentation."""

    def on_fit_start(self, *_):
        pass

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


SEARCH = {"min_lr": 1e-4, "max_lr": 0.5, "num_training_steps": 18, "early_stop_threshold": None}


def swept(tmp_path, kind=LearningRateFinder):
    """The rates and losses of the search without a scheduler."""
    finder = kind(**SEARCH)
    fit(Findable(), finder, default_root_dir=tmp_path)
    return finder.optimal_lr.results


@pytest.mark.parametrize("named", [None, 0.2])
def test_schedule_without_its_own_rate_starts_from_the_found_one(tmp_path, named):
    finder, module, schedule = LearningRateFinder(**SEARCH), Findable(), StepDecay(named, every="1ep")
    _, scheduler, used = run(schedule, finder, module=module, default_root_dir=tmp_path)
    assert finder.optimal_lr.results == swept(tmp_path)
    assert module.lr == finder.optimal_lr.suggestion() != 0.1
    assert_used(plan(schedule, [6] * 3, base=module.lr), scheduler, used)
    assert scheduler.trace["lr"].first_step == 0


def test_schedule_starts_from_the_rate_the_tuner_found(tmp_path):
    scheduler, used, module = LearningRateScheduler(StepDecay(every="1ep")), Used(), Findable()
    trainer = pl.Trainer(max_epochs=3, callbacks=[scheduler, used], default_root_dir=tmp_path, **QUIET)
    found = Tuner(trainer).lr_find(
        module, loader(), min_lr=1e-4, max_lr=0.5, num_training=18, early_stop_threshold=None
    )
    assert (found.results, len(scheduler.trace)) == (swept(tmp_path), 0)
    trainer.fit(module, loader())
    assert_used(plan(StepDecay(every="1ep"), [6] * 3, base=found.suggestion()), scheduler, used)


def test_search_during_training_does_not_affect_the_run(tmp_path):
    finder, schedule = Later(**SEARCH), StepDecay(0.1, every="2ep")
    _, scheduler, used = run(schedule, finder, LearningRateTrace(), module=Findable(), default_root_dir=tmp_path)
    tried = finder.optimal_lr.results
    assert tried == swept(tmp_path, Later)
    assert used.values[6 : 6 + len(tried["lr"])] == pytest.approx(tried["lr"])
    assert scheduler.trace["lr"].values.tolist() == plan(schedule, [6] * 3)
    assert str(scheduler.audit) == "lr followed the plan at 18 of 18 steps"


def test_search_during_training_is_not_recorded_by_the_trace(tmp_path):
    trace = LearningRateTrace()
    fit(Findable(), Later(**SEARCH, update_attr=False), trace, default_root_dir=tmp_path)
    assert trace.trace["lr"].values.tolist() == [0.1] * 18


# --- early stopping and checkpoints -------------------------------------------------------------------------------


def test_early_stopping_cuts_the_plan_off_silently(recwarn):
    stop = EarlyStopping("loss", mode="max", patience=1)  # the loss falls
    trainer, scheduler, used = run(FALLING, stop)
    assert trainer.global_step == 12
    assert_used(plan(FALLING, [6] * 3, EIGHTEEN)[:12], scheduler, used)
    assert not [one for one in recwarn if "LearningRateScheduler" in str(one.message)]


def test_checkpoints_load_weights_only_and_resume(tmp_path):
    def save(folder):
        return ModelCheckpoint(tmp_path / folder, monitor="val_loss", filename="best", save_last=True)

    plateau = ReduceLROnPlateau(0.1, patience=1, factor=0.5, monitor="loss", mode="max")
    _, whole, used = run(plateau, save("whole"), val=loader(8), enable_checkpointing=True, epochs=4)
    assert_used([0.1] * 12 + [0.05] * 6 + [0.025] * 6, whole, used)
    run(plateau, save("half"), val=loader(8), enable_checkpointing=True, epochs=2)
    for name in ("best.ckpt", "last.ckpt"):
        state = torch.load(tmp_path / "half" / name, weights_only=True)["callbacks"]["LearningRateScheduler"]
        assert state["steps"] == [12]
    _, rest, used = run(plateau, val=loader(8), epochs=4, ckpt_path=tmp_path / "half" / "last.ckpt")
    assert_used(whole.trace["lr"].values.tolist()[12:], rest, used)


# --- tools that change weights or param groups --------------------------------------------------------------------


def averaging():
    return StochasticWeightAveraging(0.03, swa_epoch_start=2, annealing_epochs=1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("before", [True, False])
def test_weight_averaging_follows_the_plan(before):
    scheduler, used, callback = LearningRateScheduler(FALLING), Used(), averaging()
    fit(None, *([callback, scheduler] if before else [scheduler, callback]), used, epochs=4)
    assert_used(plan(FALLING, [6] * 4, RunLength.of(steps_per_epoch=6, epochs=4)), scheduler, used)
    assert set(scheduler.audit.foreign) == {"SWALR"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("before", [True, False])
def test_weight_averaging_drives_with_on_conflict_theirs(before):
    scheduler, used, callback = LearningRateScheduler(FALLING, on_conflict="theirs"), Used(), averaging()
    fit(None, *([callback, scheduler] if before else [scheduler, callback]), used, epochs=4)
    planned = plan(FALLING, [6] * 4, RunLength.of(steps_per_epoch=6, epochs=4))
    assert used.values == scheduler.trace["lr"].values.tolist() == planned[:6] + [planned[6]] * 6 + [0.03] * 12
    assert (scheduler.audit.followed, scheduler.audit.steps) == (6, 24)


@pytest.mark.filterwarnings("ignore")
def test_on_conflict_theirs_records_each_group():
    def make(parameters):
        weight, bias = parameters
        return torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": 0.02}], lr=0.1)

    scheduler = LearningRateScheduler(FALLING, on_conflict="theirs")
    fit(Toy(make), scheduler, averaging(), epochs=4)
    planned = plan(FALLING, [6] * 4, RunLength.of(steps_per_epoch=6, epochs=4))
    first, second = (series.values for series in scheduler.trace.values())
    assert first.tolist() == planned[:6] + [planned[6]] * 6 + [0.03] * 12
    assert second == pytest.approx([0.2 * value for value in planned[:6] + [planned[6]] * 6] + [0.03] * 12)


class Backbone(Toy):
    """Only its head is in the optimizer, until the rest is unfrozen."""

    def __init__(self):
        super().__init__(lambda parameters: torch.optim.SGD([one for one in parameters if one.requires_grad], lr=0.1))
        self.backbone = torch.nn.Linear(3, 3)


@pytest.mark.filterwarnings("ignore")
def test_groups_added_by_finetuning_follow_their_schedule():
    finetuning = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.1, verbose=False)
    schedules = [FALLING, Assign(Constant(0.003), params="^backbone")]
    scheduler, used = LearningRateScheduler(schedules), Used()
    fit(Backbone(), finetuning, scheduler, used)
    planned = plan(FALLING, [6] * 3, EIGHTEEN)
    assert used.values == planned
    assert scheduler.trace["lr"].values.tolist() == planned  # one column, although another group joins later
    assert scheduler.trace["lr/backbone"].values.tolist() == [0.003] * 12
    assert (scheduler.audit.followed, scheduler.audit.steps) == (18, 18)


def test_timer_and_accumulation_do_not_change_the_plan():
    tools = [Timer("00:01:00:00", interval="step"), GradientAccumulationScheduler({0: 2})]
    _, scheduler, used = run(BY_EPOCH, *tools)
    assert_used(plan(BY_EPOCH, [3] * 3), scheduler, used)


# --- progress bars ------------------------------------------------------------------------------------------------


class Own(TQDMProgressBar):
    """A bar without the items that Lightning adds."""

    def get_metrics(self, trainer, pl_module):
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        return items


def shown(text, name="lr"):
    """The values a bar has shown in order, without repetitions."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    found = re.findall(rf"[ ,]{name}[=:] ?([0-9.e-]+)", plain)
    return [value for value, _ in itertools.groupby(found)]


def texts(values):
    return [f"{value:.3g}" for value in values]


SMALL = LinearDecay(0.001)
BARS = pytest.mark.parametrize("bar", [TQDMProgressBar, Own, RichProgressBar])


def watched(bar, schedule=SMALL, module=None, **options):
    scheduler = LearningRateScheduler(schedule)
    fit(module, bar, scheduler, enable_progress_bar=True, **options)
    assert "get_metrics" not in vars(bar)
    return scheduler


class Asked(pl.Callback):
    """What the bar would show after each batch."""

    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.found.append(trainer.progress_bar_callback.get_metrics(trainer, pl_module))


def asked(schedule, module=None, **options):
    look = Asked()
    fit(module, LearningRateScheduler(schedule), look, TQDMProgressBar(), enable_progress_bar=True, **options)
    return look.found


@BARS
def test_bar_shows_the_rate_of_the_last_step(bar, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich draws even without a terminal
    monkeypatch.setenv("COLUMNS", "200")
    scheduler = watched(bar(refresh_rate=1), val=loader(8), logger=False)
    used = texts(scheduler.trace["lr"].values)
    found = shown("".join(capsys.readouterr()))
    if bar is RichProgressBar:  # refreshes on its own timer, and always at the end of an epoch
        assert found == [value for value in used if value in found]
        assert found[-1] == used[-1]
    else:
        assert found == used


def test_rate_is_read_only_when_the_bar_refreshes(capsys):
    scheduler = watched(TQDMProgressBar(refresh_rate=4))
    used = scheduler.trace["lr"].values
    assert shown("".join(capsys.readouterr())) == texts(used[[3, 5, 9, 11, 15, 17]])


def test_bar_shows_the_previous_step_during_accumulation():
    found = [items.get("lr") for items in asked(SMALL, accumulate_grad_batches=3, epochs=2)]
    assert found == [None, None, *(value for value in texts([0.001, 0.00075, 0.0005]) for _ in range(3)), "0.00025"]


def test_value_logged_by_the_module_takes_precedence_in_the_bar():
    class Logs(Toy):
        def training_step(self, batch, batch_idx):
            self.log("lr", 42.0, prog_bar=True)
            return super().training_step(batch, batch_idx)

    assert {float(items["lr"]) for items in asked(SMALL, Logs())} == {42.0}


def test_bar_shows_the_first_three_differing_groups():
    def make(names, **second):
        def of(parameters):
            weight, bias = parameters
            others = [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": name} for name in names[2:]]
            groups = [{"params": [weight], "name": names[0]}, {"params": [bias], "name": names[1], **second}]
            return torch.optim.SGD([*groups, *others], lr=0.1)

        return Toy(of)

    assert asked(BY_EPOCH, make("ab", lr=0.02))[-1] == {"lr/a": "0.025", "lr/b": "0.005"}
    assert list(asked(BY_EPOCH, make("abcde", lr=0.02))[-1]) == ["lr/a", "lr/b", "lr/c"]
    assert asked(BY_EPOCH, make("abcde"))[-1] == {"lr": "0.025"}  # one schedule for all of them


def test_bar_shows_the_rate_of_each_optimizer():
    class Two(Toy):
        def __init__(self):
            super().__init__(lambda parameters: [torch.optim.SGD([one], lr=0.1) for one in parameters])
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.step()

    schedules = [Assign(Constant(0.3), optimizer=0), Assign(Constant(0.2), optimizer=1)]
    assert asked(schedules, Two())[-1] == {"lr/SGD-0": "0.3", "lr/SGD-1": "0.2"}


def test_bar_is_restored_after_an_error():
    class Fails(Toy):
        def training_step(self, batch, batch_idx):
            raise KeyError("broken data")

    bar = TQDMProgressBar()
    bar.get_metrics = mine = lambda trainer, pl_module: {"own": 1}
    with pytest.raises(KeyError):
        fit(Fails(), bar, LearningRateScheduler(SMALL), enable_progress_bar=True)
    assert vars(bar)["get_metrics"] is mine


def test_bars_of_the_lightning_package_show_the_rate(capsys):
    import lightning.pytorch as lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    bar = lightning.callbacks.TQDMProgressBar()
    trainer = lightning.Trainer(
        max_epochs=3, callbacks=[bar, LearningRateScheduler(SMALL)], **{**QUIET, "enable_progress_bar": True}
    )
    trainer.fit(Module(), loader())
    assert shown("".join(capsys.readouterr())) == texts(plan(SMALL, [6] * 3, EIGHTEEN))
    assert "get_metrics" not in vars(bar)
