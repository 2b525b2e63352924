"""A ScheduleLR that is not stepped after each optimizer step is reported, once, at the start."""

import warnings

import pytest
import pytorch_lightning as pl
import torch

from lr_plugins import Assign, Constant, CosineDecay, LearningRateScheduler, LinearDecay, RunLength, StepDecay
from lr_plugins.interop import ScheduleLR
from tests.interop.loops import sgd, used
from tests.toys import Toy, Used, fit

MESSAGE = r"ScheduleLR: SGD has taken two steps without ScheduleLR\.step\(\)"


class Returns(Toy):
    def __init__(self, form, schedule=None, run=None):
        super().__init__()
        self.form, self.schedule, self.run = (
            form,
            schedule or LinearDecay(0.1, end_learning_rate=0.0, decay_steps="18st"),
            run,
        )
        self.steps_at_warning = None

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return self.form(optimizer, ScheduleLR(optimizer, self.schedule, run_length=self.run))


PER_EPOCH = {
    "two lists": lambda optimizer, scheduler: ([optimizer], [scheduler]),
    "dictionary": lambda optimizer, scheduler: {"optimizer": optimizer, "lr_scheduler": scheduler},
    "nested": lambda optimizer, scheduler: {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}},
    "list of dictionaries": lambda optimizer, scheduler: ([optimizer], [{"scheduler": scheduler}]),
    "epoch": lambda optimizer, scheduler: ([optimizer], [{"scheduler": scheduler, "interval": "epoch"}]),
    "every second step": lambda optimizer, scheduler: (
        [optimizer],
        [{"scheduler": scheduler, "interval": "step", "frequency": 2}],
    ),
}


def per_step(optimizer, scheduler):
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def reports(caught):
    return [str(one.message) for one in caught if "ScheduleLR.step()" in str(one.message)]


@pytest.fixture
def caught():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


class StopAfterTwo(Used):
    """Notes how many optimizer steps were taken when the report came."""

    def __init__(self, caught):
        super().__init__()
        self.caught, self.at = caught, None

    def on_train_batch_end(self, trainer, *_):
        if self.at is None and reports(self.caught):
            self.at = trainer.global_step


@pytest.mark.parametrize("form", PER_EPOCH.values(), ids=PER_EPOCH)
def test_lightning_steps_it_once_per_epoch_by_default(form, caught):
    spy = StopAfterTwo(caught)
    fit(Returns(form), spy, epochs=3)
    (report,) = reports(caught)
    assert '"interval": "step"' in report
    assert spy.at == 2
    assert spy.values[:2] == [0.1, 0.1]


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}, {"max_steps": 5}])
def test_stepped_per_step_it_is_right_and_silent(options, caught):
    spy = Used()
    fit(Returns(per_step), spy, epochs=3, **options)
    assert not reports(caught)
    assert spy.values == pytest.approx([0.1 * (1 - step / 18) for step in range(len(spy.values))])


def test_accumulated_batches_are_not_steps(caught):
    fit(Returns(PER_EPOCH["two lists"]), epochs=3, accumulate_grad_batches=6)  # one optimizer step an epoch
    assert not reports(caught)


def test_one_step_per_epoch_on_purpose_is_silent(caught):
    spy = Used()
    run = RunLength.of(steps_per_epoch=1, epochs=3)
    fit(Returns(PER_EPOCH["two lists"], StepDecay(0.1, drop=0.5, every="1ep"), run), spy, epochs=3)
    assert not reports(caught)
    assert spy.values == [0.1] * 6 + [0.05] * 6 + [0.025] * 6


class Manual(Returns):
    def __init__(self, form, every):
        super().__init__(form)
        self.every, self.automatic_optimization = every, False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.compute_loss(batch))
        optimizer.step()
        if (batch_idx + 1) % self.every == 0:
            self.lr_schedulers().step()


@pytest.mark.parametrize(("every", "count"), [(1, 0), (2, 1), (6, 1)])
def test_manual_optimization(every, count, caught):
    fit(Manual(per_step, every), epochs=2)
    assert len(reports(caught)) == count


def test_if_the_callback_overrides_it_only_that_is_reported(caught):
    spy = Used()
    scheduler = LearningRateScheduler(LinearDecay(0.3, end_learning_rate=0.0, decay_steps="18st"))
    fit(Returns(PER_EPOCH["two lists"]), scheduler, spy, epochs=3)
    assert not reports(caught)
    said = [str(one.message) for one in caught if "LearningRateScheduler" in str(one.message)]
    assert "configure_optimizers() returns ScheduleLR as well. LearningRateScheduler overrides it" in said[0]
    assert spy.values == pytest.approx([0.3 * (1 - step / 18) for step in range(18)])


@pytest.mark.parametrize(("form", "count"), [(per_step, 0), (PER_EPOCH["two lists"], 1)])
def test_if_the_callback_gives_way_it_is_the_plan(form, count, caught):
    scheduler = LearningRateScheduler(Constant(0.3), on_conflict="theirs")
    spy = Used()
    fit(Returns(form), scheduler, spy, epochs=3)
    assert len(reports(caught)) == count
    assert scheduler.trace["lr"].values.tolist() == spy.values
    assert spy.values[0] == 0.1


def test_lightnings_learning_rate_finder_is_not_reported(caught, tmp_path):
    module = Returns(per_step)
    module.lr = 0.1
    finder = pl.callbacks.LearningRateFinder(num_training_steps=10)
    fit(module, finder, epochs=2, default_root_dir=tmp_path)
    assert len(finder.optimal_lr.results["lr"]) == 10
    assert not reports(caught)


# --- loops without Lightning ------------------------------------------------------------------------------------------


def loop(optimizer, scheduler, epochs, batches, every=None):
    for step in range(epochs * batches):
        optimizer.step()
        if (step + 1) % (every or batches) == 0:
            scheduler.step()


@pytest.mark.parametrize(("every", "count"), [(1, 0), (2, 1), (None, 1)])
def test_a_plain_loop(every, count, caught):
    optimizer = sgd()
    loop(optimizer, ScheduleLR(optimizer, LinearDecay(0.1, end_learning_rate=0.0, decay_steps="30st")), 3, 10, every)
    assert len(reports(caught)) == count


def test_the_report_comes_at_the_second_step_of_a_loop():
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, CosineDecay(0.1, decay_steps="100st"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    with pytest.warns(UserWarning, match=MESSAGE):
        optimizer.step()
    assert scheduler.last_epoch == 0


def test_an_optimizer_that_calls_super_step_takes_one_step(caught):
    class Clipped(torch.optim.SGD):
        def step(self, closure=None):
            torch.nn.utils.clip_grad_norm_(self.param_groups[0]["params"], 1.0)
            return super().step(closure)

    optimizer = Clipped([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    used(optimizer, ScheduleLR(optimizer, CosineDecay(0.1, decay_steps="100st")), 5)
    assert not reports(caught)


def test_schedulers_of_two_optimizers_are_independent(caught):
    optimizers = [sgd(), sgd()]
    first, second = [ScheduleLR(optimizer, CosineDecay(0.1, decay_steps="100st")) for optimizer in optimizers]
    for _ in range(4):
        for optimizer in optimizers:
            optimizer.step()
        first.step()
    assert len(reports(caught)) == 1
    assert (first.last_epoch, second.last_epoch) == (4, 0)


def test_two_of_one_optimizer_are_reported_together(caught):
    optimizer = sgd(momentum=0.9)
    both = [ScheduleLR(optimizer, Constant(0.1)), ScheduleLR(optimizer, Assign(Constant(0.5), to="momentum"))]
    for _ in range(2):
        loop(optimizer, both[0], 1, 3)
    assert 1 <= len(reports(caught)) <= 2


def test_a_deleted_scheduler_is_silent(caught):
    optimizer = sgd()
    ScheduleLR(optimizer, CosineDecay(0.1, decay_steps="100st"))
    loop(optimizer, ScheduleLR(optimizer, CosineDecay(0.1, decay_steps="100st")), 1, 5, 1)
    assert not reports(caught)


def test_a_compiled_step_is_compiled_once(caught):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor(0.1))
    scheduler = ScheduleLR(optimizer, LinearDecay(0.1, end_learning_rate=0.0, decay_steps="10st"))
    (weight,) = optimizer.param_groups[0]["params"]
    compilations = []

    def backend(graph, _):
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    step = torch.compile(optimizer.step, backend=backend)
    counts = []
    for _ in range(6):
        weight.grad = torch.ones(2)
        step()
        scheduler.step()
        counts.append(len(compilations))
    assert weight.tolist() == pytest.approx([1 - 0.1 - 0.09 - 0.08 - 0.07 - 0.06 - 0.05] * 2)
    assert counts[0] > 0
    assert counts[-1] == counts[1]
    assert not reports(caught)
