"""Messages of ScheduleLR refer to plain loops; unsupported optimizers get one clear sentence."""

import pytest
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from timm.optim import Lookahead
from transformers.optimization import Adafactor

from lr_plugins import Annealed, Assign, Constant, CosineDecay, RunLength, StepDecay, WarmupStableDecay
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.interop import ScheduleLR
from tests.interop.loops import sgd, used

LENGTHS = {
    "percent": CosineDecay(0.1),
    "warm-up": StepDecay(0.1, every="3st").with_warmup("5%"),
    "sequence": Constant(0.1).then(CosineDecay(0.1), after="80%"),
    "annealed": Annealed(Constant(0.1)),
    "warm-up, stable, decay": WarmupStableDecay(0.1, warmup_steps="5st", decay_steps="20st"),
    "warm-up, stable, decay in percent": WarmupStableDecay(0.1),
    "momentum": [Constant(0.1), Assign(CosineDecay(0.9), to="momentum")],
}


@pytest.mark.parametrize("schedule", LENGTHS.values(), ids=LENGTHS)
def test_an_unknown_length_names_the_run_length_to_pass(schedule):
    with pytest.raises(TrainingError, match=r"RunLength\.of\(steps=\.\.\.\)") as raised:
        ScheduleLR(sgd(momentum=0.9), schedule)
    assert "LearningRateScheduler" not in str(raised.value)
    for run in (RunLength.of(steps=50), RunLength.of(steps_per_epoch=10, epochs=5)):
        scheduler = ScheduleLR(sgd(momentum=0.9), schedule, run_length=run)
        used(scheduler.optimizer, scheduler, 50)


@pytest.mark.parametrize(
    "schedule", [StepDecay(every="2ep"), lambda epoch: 0.1, CosineDecay(0.1, decay_steps="10ep").per_epoch()]
)
def test_unknown_epochs_name_the_run_length_to_pass(schedule):
    with pytest.raises(TrainingError, match=r"give RunLength\.of\(steps_per_epoch=\.\.\.\)"):
        ScheduleLR(sgd(), schedule)
    ScheduleLR(sgd(), schedule, run_length=RunLength.of(steps_per_epoch=5))


def test_another_writer_is_reported_by_name():
    scheduler = ScheduleLR(sgd(), StepDecay(0.1, every="2st"))
    scheduler.optimizer.param_groups[0]["lr"] = 0.7
    with pytest.warns(UserWarning, match=r"^ScheduleLR: before step 4, other code has set lr to 0\.7") as found:
        scheduler.load_state_dict({"last_epoch": 4})
    assert len(found) == 1
    assert scheduler.get_last_lr() == [0.025]


# --- optimizers that it cannot drive ----------------------------------------------------------------------------------


def parameters():
    return [torch.nn.Parameter(torch.zeros(1))]


def test_an_optimizer_that_computes_its_own_learning_rate():
    def adafactor(**options):
        return Adafactor(parameters(), **options)

    own = adafactor(lr=None, relative_step=True, scale_parameter=True)
    for schedule in (CosineDecay(0.1, decay_steps="9st"), StepDecay(every="2st"), [Assign(Constant(0.1))]):
        with pytest.raises(InvalidArgumentError) as raised:
            ScheduleLR(own, schedule)
        assert str(raised.value) == (
            "ScheduleLR.optimizer must be an optimizer with a learning rate; got 'Adafactor with lr=None'. It computes "
            "its own. Pass an lr (and relative_step=False, if it has that argument)."
        )
    ScheduleLR(own, Assign(Constant(0.1), to="weight_decay"))  # which it has
    given = adafactor(lr=0.1, relative_step=False, scale_parameter=False)
    assert used(given, ScheduleLR(given, StepDecay(every="1st", drop=0.5)), 3) == [[0.1], [0.05], [0.025]]


def test_a_group_without_a_learning_rate():
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    optimizer.add_param_group({"params": parameters()})
    optimizer.param_groups[1]["lr"] = None
    with pytest.raises(InvalidArgumentError, match="got 'SGD with lr=None'"):
        ScheduleLR(optimizer, CosineDecay(0.1, decay_steps="9st"))


class Wrapper:
    """As optimizer libraries write them."""

    def __init__(self, base):
        self.base = base

    @property
    def param_groups(self):
        return self.base.param_groups

    def step(self, closure=None):
        return self.base.step(closure)

    def state_dict(self):
        return self.base.state_dict()


class Bare:
    param_groups = ()


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (Wrapper(sgd()), r"got 'Wrapper'\. Pass the wrapped optimizer, Wrapper\.base\.$"),
        (Bare(), r"got 'Bare'\.$"),
        (None, r"got 'NoneType'\.$"),
        (parameters(), r"got 'list'\.$"),
    ],
    ids=["wrapper", "bare", "none", "parameters"],
)
def test_anything_but_a_torch_optimizer_is_rejected(optimizer, message):
    with pytest.raises(
        InvalidArgumentError, match=r"^ScheduleLR\.optimizer must be a torch\.optim\.Optimizer; " + message
    ):
        ScheduleLR(optimizer, CosineDecay(0.1, decay_steps="9st"))


def test_lightnings_wrapper_is_accepted():
    inner = sgd()
    scheduler = ScheduleLR(LightningOptimizer(inner), StepDecay(0.1, every="1st", drop=0.5))
    scheduler.step()
    assert inner.param_groups[0]["lr"] == 0.05


def test_a_lookahead_without_optimizer_init_is_driven():
    optimizer = Lookahead(sgd())
    scheduler = ScheduleLR(optimizer, StepDecay(0.1, every="1st", drop=0.5))
    inner = optimizer._base_optimizer
    rates = []
    handle = inner.register_step_pre_hook(lambda one, *_: rates.append(one.param_groups[0]["lr"]))
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    handle.remove()
    assert rates == [0.1, 0.05, 0.025]
