"""Two schedulers that write the same values of one optimizer."""

import copy
import gc
import subprocess
import sys
import warnings

import pytest
import torch

from lr_plugins import Assign, Constant, CosineDecay, LearningRateScheduler, LinearDecay, StepDecay
from lr_plugins.interop import ScheduleLR
from tests.interop.loops import sgd, used
from tests.toys import Toy, Used, fit

FIRST, SECOND = CosineDecay(0.1, decay_steps="100st"), StepDecay(0.1, every="30st")
MESSAGE = r"another ScheduleLR, of CosineDecay\(.*drives the learning rate of the same parameters of this SGD"


@pytest.fixture(autouse=True)
def only_what_is_expected():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def two_groups():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": name} for name in ("body", "head")]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def test_a_second_scheduler_is_reported_when_built():
    optimizer = sgd()
    first = ScheduleLR(optimizer, FIRST)
    with pytest.warns(UserWarning, match=MESSAGE) as found:
        second = ScheduleLR(optimizer, SECOND)
    assert len(found) == 1
    assert first.optimizer is second.optimizer


OVERLAPPING = {
    "a group of all": (FIRST, Assign(SECOND, group="head")),
    "all, one of them a group": (Assign(FIRST, group=1), SECOND),
    "the same group": (Assign(FIRST, group="head"), [Assign(SECOND, group=1)]),
    "momentum too": (FIRST, [SECOND, Assign(Constant(0.5), to="momentum")]),
}
APART = {
    "lr and momentum": (FIRST, Assign(Constant(0.5), to="momentum")),
    "momentum and weight decay": (Assign(FIRST, to="momentum"), Assign(Constant(0.5), to="weight_decay")),
    "two groups": (Assign(FIRST, group="body"), Assign(SECOND, group="head")),
}


@pytest.mark.parametrize(("one", "other"), OVERLAPPING.values(), ids=OVERLAPPING)
def test_overlapping_schedulers_are_reported(one, other):
    optimizer = two_groups()
    first = ScheduleLR(optimizer, one)
    with pytest.warns(UserWarning, match=MESSAGE):
        ScheduleLR(optimizer, other)
    assert first.last_epoch == 0


@pytest.mark.parametrize(("one", "other"), APART.values(), ids=APART)
def test_schedulers_that_do_not_overlap_both_drive(one, other):
    optimizer = two_groups()
    first, second = ScheduleLR(optimizer, one), ScheduleLR(optimizer, other)
    for _ in range(3):
        optimizer.step()
        first.step()
        second.step()
    assert first.last_epoch == second.last_epoch == 3


def test_each_beta_is_its_own_and_momentum_is_the_first():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedulers = [ScheduleLR(optimizer, Assign(Constant(0.5), to=beta)) for beta in ("beta1", "beta2")]
    with pytest.warns(UserWarning, match="drives the momentum of the same parameters of this AdamW"):
        ScheduleLR(optimizer, Assign(Constant(0.7), to="momentum"))
    assert len(schedulers) == 2


def test_a_deleted_scheduler_is_not_reported():
    optimizer = sgd()
    ScheduleLR(optimizer, FIRST)  # no reference is kept
    first = ScheduleLR(optimizer, FIRST)
    used(optimizer, first, 3)
    del first
    gc.disable()
    try:  # it is freed immediately, without the garbage collector
        scheduler = ScheduleLR(optimizer, SECOND)
    finally:
        gc.enable()
    assert used(optimizer, scheduler, 2) == [[0.1], [0.1]]


def test_copies_and_other_optimizers_do_not_conflict():
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, FIRST)
    copies = [copy.deepcopy([optimizer, scheduler]) for _ in range(2)]
    others = [ScheduleLR(sgd(), SECOND) for _ in range(2)]
    assert len(copies) == len(others) == 2


ALIVE = """
import gc, weakref, torch
from lr_plugins import LinearDecay
from lr_plugins.interop import ScheduleLR

weight = torch.nn.Parameter(torch.zeros(2))
optimizer = torch.optim.SGD([weight], lr=0.1)
scheduler, gone = ScheduleLR(optimizer, LinearDecay(0.1, end_learning_rate=0.0, decay_steps="18st")), []
for _ in range(2):
    optimizer.step()
    scheduler.step()
weakref.finalize(optimizer, gone.append, True)
del optimizer, scheduler
gc.collect()
print(gone)
"""


def test_neither_keeps_the_optimizer_alive():
    # In a separate process, unaffected by other tests.
    done = subprocess.run([sys.executable, "-c", ALIVE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[True]"


class Returns(Toy):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = ScheduleLR(optimizer, LinearDecay(0.1, end_learning_rate=0.0, decay_steps="18st"))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


@pytest.mark.parametrize(
    ("choice", "message", "rates"),
    [
        ("ours", "returns ScheduleLR as well. LearningRateScheduler overrides it", [0.3] * 18),
        ("theirs", "stops writing and only records", [0.1 * (1 - step / 18) for step in range(18)]),
    ],
)
def test_beside_the_callback_on_conflict_decides(choice, message, rates):
    scheduler, spy = LearningRateScheduler(Constant(0.3), on_conflict=choice), Used()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(Returns(), scheduler, spy, epochs=3)
    assert spy.values == pytest.approx(rates)
    said = [str(one.message) for one in found if "ScheduleLR" in str(one.message)]
    assert message in said[0]
    assert len(said) == 1 + (choice == "ours")  # the override, and its first write
    assert all("two steps" not in one for one in said)
