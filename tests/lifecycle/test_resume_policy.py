"""A run resumed with another plan: nothing jumps silently, and four policies to continue."""

import json

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lr_plugins import (
    Assign,
    Constant,
    CosineDecay,
    LearningRateScheduler,
    LinearDecay,
    PiecewiseConstant,
    ReduceLROnPlateau,
    RunLength,
    StepDecay,
)
from lr_plugins.errors import InvalidArgumentError, TrainingError
from tests.toys import Toy, fit, loader

COSINE = CosineDecay(0.1)


def planned(schedule, epochs, base=0.1):
    run = RunLength.of(steps_per_epoch=6, epochs=epochs)
    return [schedule(run.position(step, base)) for step in range(run.steps)]


@pytest.fixture
def begin(tmp_path):
    """The checkpoint of a run after two epochs."""

    def begin(schedule, epochs=4, module=None):
        saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, enable_version_counter=False)
        fit(module, LearningRateScheduler(schedule), saver, epochs=epochs, enable_checkpointing=True)
        return tmp_path / "step=12.ckpt"

    return begin


def go_on(checkpoint, schedule, epochs, on_resume="error", module=None):
    scheduler = LearningRateScheduler(schedule, on_resume=on_resume)
    fit(module, scheduler, epochs=epochs, ckpt_path=checkpoint)
    return scheduler.trace["lr"].values.tolist()


def test_same_plan_resumes_under_every_policy(begin):
    checkpoint = begin(COSINE)
    for policy in ("error", "config", "checkpoint", "rescale"):
        assert go_on(checkpoint, COSINE, 4, policy) == planned(COSINE, 4)[12:]


def test_plan_that_does_not_jump_resumes(begin):
    checkpoint = begin(StepDecay(0.1, every="2ep"))
    # A plan in epochs ignores the longer run.
    assert go_on(checkpoint, StepDecay(0.1, every="2ep"), 8) == planned(StepDecay(0.1, every="2ep"), 8)[12:]


def test_jump_is_refused_with_the_differences_and_choices(begin):
    checkpoint = begin(COSINE)
    with pytest.raises(TrainingError) as error:
        go_on(checkpoint, COSINE, 8)
    text = str(error.value)
    lines = [line.split() for line in text.splitlines()]
    assert "resuming at step 12 with another plan" in text
    assert ["epochs", "4", "8"] in lines
    assert ["optimizer", "steps", "24", "48"] in lines
    told = {line[0]: float(line[1]) for line in lines[-4:-1]}
    expected = {"config": planned(COSINE, 8)[12], "checkpoint": planned(COSINE, 4)[12], "rescale": 0.05}
    assert told == pytest.approx(expected, rel=1e-5)
    assert 'on_resume="config"' in text


def test_changed_schedule_is_reported_field_by_field(begin):
    checkpoint = begin(COSINE.with_warmup("1ep"))
    with pytest.raises(TrainingError, match=r"schedule\.schedule\.initial_learning_rate +0\.1 +0\.2"):
        go_on(checkpoint, CosineDecay(0.2).with_warmup("1ep"), 4)


def test_another_learning_rate_of_the_optimizer(begin):
    checkpoint = begin(CosineDecay())
    module = Toy(lambda parameters: torch.optim.SGD(parameters, lr=0.4))
    with pytest.raises(TrainingError, match=r"the optimizer's learning rate +0\.1 +0\.4"):
        go_on(checkpoint, CosineDecay(), 4, module=module)
    assert go_on(checkpoint, CosineDecay(), 4, "config", module) == planned(CosineDecay(), 4, base=0.4)[12:]
    assert go_on(checkpoint, CosineDecay(), 4, "checkpoint", module) == planned(CosineDecay(), 4)[12:]


def test_config_takes_the_new_plan_at_the_same_position(begin, capsys):
    assert go_on(begin(COSINE), LinearDecay(0.2), 8, "config") == planned(LinearDecay(0.2), 8)[12:]


def test_checkpoint_keeps_the_old_plan(begin):
    assert go_on(begin(COSINE), LinearDecay(0.2), 8, "checkpoint") == [*planned(COSINE, 4)[12:], *[0.0] * 24]


def test_rescale_stretches_the_remaining_plan(begin):
    rates = go_on(begin(COSINE), COSINE, 8, "rescale")
    run = RunLength.of(steps_per_epoch=6, epochs=4)
    # The 12 remaining steps of the old plan are stretched to 36.
    stretched = [COSINE(RunLength.of(steps=24 * 3).position(12 * 3 + step)) for step in range(36)]
    assert rates == pytest.approx(stretched)
    assert rates[::3] == pytest.approx([COSINE(run.position(12 + step)) for step in range(12)])


def test_impossible_policies_are_refused(begin):
    ended = begin(COSINE, epochs=2)
    with pytest.raises(TrainingError, match="ends at step 12, so there is no remainder"):
        go_on(ended, COSINE, 4, "rescale")
    with pytest.raises(TrainingError, match="is a function, which a checkpoint cannot hold"):
        go_on(begin(lambda epoch: 0.1), COSINE, 4, "checkpoint")


def test_a_run_is_resumed_again_and_again(begin, tmp_path):
    first = begin(COSINE)
    saver = ModelCheckpoint(tmp_path / "second", filename="{step}", save_top_k=-1)
    whole = LearningRateScheduler(COSINE, on_resume="rescale")
    fit(None, whole, saver, epochs=8, ckpt_path=first, enable_checkpointing=True)
    again = go_on(tmp_path / "second/step=24.ckpt", COSINE, 8, "rescale")
    assert again == pytest.approx(whole.trace["lr"].values.tolist()[12:], rel=1e-12)
    longer = go_on(tmp_path / "second/step=24.ckpt", COSINE, 12, "rescale")
    assert longer[0] == pytest.approx(again[0])
    assert longer[::2][:12] == pytest.approx(again[:12])


def test_param_groups_are_compared_apart(begin):
    def schedules(rate):
        return [Constant(0.1), Assign(CosineDecay(rate), params="bias$")]

    checkpoint = begin(schedules(0.2))
    with pytest.raises(TrainingError, match=r"schedule\.initial_learning_rate +0\.2 +0\.3"):
        go_on(checkpoint, schedules(0.3), 4)


def test_memory_of_a_plateau_is_restored(begin):
    # min_delta is unreachable: the rate halves after every epoch but the first.
    schedule = COSINE * ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=1e9)
    checkpoint = begin(schedule)
    kept = go_on(checkpoint, schedule, 8, "checkpoint")
    assert kept[0] == pytest.approx(planned(COSINE, 4)[12] * 0.5)


def test_policy_applies_to_a_second_fit_of_the_trainer():
    scheduler = LearningRateScheduler(COSINE)
    module = Toy()
    trainer = fit(module, scheduler, epochs=2)
    trainer.fit_loop.max_epochs = 4
    with pytest.raises(TrainingError, match="make the learning rate jump"):
        trainer.fit(module, loader())
    scheduler.on_resume = "config"
    trainer.fit(module, loader())
    assert scheduler.trace["lr"].values.tolist() == [*planned(COSINE, 2), *planned(COSINE, 4)[12:]]


def test_on_resume_accepts_four_values():
    with pytest.raises(
        InvalidArgumentError, match=r"on_resume must be one of error, config, checkpoint, rescale; got 'keep'"
    ):
        LearningRateScheduler(COSINE, on_resume="keep")


def test_the_saved_plan_is_plain(begin):
    checkpoint = torch.load(begin([COSINE, Assign(lambda epoch: 0.9, to="momentum")]), weights_only=True)
    state = checkpoint["callbacks"]["LearningRateScheduler"]
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    assert state["schedules"]["0/lr/0"]["schedule"]["_target_"] == "lr_plugins.schedules.CosineDecay"


@pytest.mark.parametrize("on_resume", ["checkpoint", "config"])
def test_policy_is_kept_when_only_epochs_are_known(begin, on_resume):
    # Under manual optimization percent count epochs; the plans differ only later.
    class Manual(Toy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.compute_loss(batch))
            optimizer.step()

    halves = PiecewiseConstant(["75%"], [0.1, 0.01])
    checkpoint = begin(halves, 4, Manual())  # after two epochs; the drop comes with the fourth
    used = go_on(checkpoint, halves, 8, on_resume, Manual())
    kept = 1 if on_resume == "checkpoint" else 4
    assert used == [0.1] * 6 * kept + [0.01] * 6 * (6 - kept)
