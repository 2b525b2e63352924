"""docs/porting_from_keras.md: its two scripts train alike, and both columns of its tables are correct."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is first imported

import keras
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import lr_plugins
import lr_plugins.keras
from lr_plugins import RunLength
from lr_plugins.keras import constraints
from tests.docs.pages import ROOT, blocks_of
from tests.docs.test_blocks import form, without_empty_lines

PAGE = ROOT / "docs/porting_from_keras.md"
SCRIPT, PORT, SHOWN = blocks_of(PAGE)
STEPS, RUN = 1000, RunLength.of(steps_per_epoch=100, epochs=10)


# --- the two scripts ----------------------------------------------------------------------------------------


def execute(block):
    """The names that a script defines, and its output."""
    names = {}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(block.text, block.id, "exec"), names)
    return names, out.getvalue()


@pytest.fixture(scope="module")
def both():
    return execute(SCRIPT), execute(PORT)


def test_the_learning_rates_are_equal_at_every_epoch(both):
    (script, _), (port, _) = both
    theirs, ours = script["history"].history["learning_rate"], port["history"]["learning_rate"]
    assert ours == [port["step_decay"](epoch) for epoch in range(8)]
    assert theirs == [float(np.float32(rate)) for rate in ours]  # Keras keeps them in single precision
    assert ours == [0.1] * 3 + [0.05] * 3 + [0.025] * 2


def test_histories_have_the_same_names_and_both_learn(both):
    (script, _), (port, _) = both
    assert set(port["history"].history) == set(script["history"].history)
    for history in (script["history"].history, port["history"].history):
        assert len(history["val_accuracy"]) == 8
        assert history["val_accuracy"][-1] > 0.85


def test_page_shows_the_output_of_both_scripts(both):
    texts = [without_empty_lines(text) for _, text in both]
    for text in texts:
        assert re.search(form(SHOWN.text), text), text
    messages = [re.findall(r"^Epoch \d+: .*$|^Epoch \d+/\d+$", text, re.MULTILINE) for text in texts]
    assert messages[0] == messages[1]
    assert len(messages[0]) == 16


# --- the tables ---------------------------------------------------------------------------------------------


def rows(title):
    """The cells of the table below a title."""
    section = PAGE.read_text().partition(f"# {title}\n")[2].partition("\n#")[0]
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip(" |") for cell in row] for row in table[1:]]


def code(cell):
    found = re.fullmatch("`([^`]+)`", cell)
    return found and found[1]


OBJECTS = [(code(row[0]), code(row[1])) for row in rows("Schedule objects")]
LINES = [row for title in ("The learning rate", "The fit") for row in rows(title)]
OURS = {name: getattr(lr_plugins, name) for name in lr_plugins.__all__}
SCHEDULERS = {one for one in vars(keras.optimizers.schedules).values() if isinstance(one, type)}


@pytest.mark.parametrize(("theirs", "ours"), OBJECTS)
def test_schedule_object_equals_keras_under_both_names(theirs, ours):
    original = eval(theirs, vars(keras.optimizers.schedules))
    expected = np.array([float(original(step)) for step in range(STEPS)])
    allowed = {"rtol": 1e-6, "atol": 1e-6 * expected.max()}  # of single precision
    for schedule in (eval(theirs, vars(lr_plugins.keras)), eval(ours, dict(OURS))):
        values = [schedule(RUN.position(step)) for step in range(STEPS)]
        np.testing.assert_allclose(values, expected, **allowed)


def test_every_schedule_object_of_keras_has_a_row():
    public = {one.__name__ for one in SCHEDULERS} - {"LearningRateSchedule"}
    assert {theirs.partition("(")[0] for theirs, _ in OBJECTS} == public


def test_the_remark_on_a_staircase_is_right():
    stairs = lr_plugins.keras.ExponentialDecay(0.1, decay_steps=100, decay_rate=0.9, staircase=True)
    steps = lr_plugins.StepDecay(0.1, drop=0.9, every="1ep")
    for step in range(STEPS):
        assert steps(RUN.position(step)) == pytest.approx(stairs(RUN.position(step)), rel=1e-14)


class Known(pl.LightningModule):
    """What the lines of a module have around them."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)


@pytest.mark.parametrize("row", LINES, ids=lambda row: row[0])
def test_our_lines_run(row):
    line = code(row[1])
    known = {
        **OURS,
        "lr_plugins": lr_plugins,
        "pl": pl,
        "torch": torch,
        "DataLoader": DataLoader,
        "self": Known(),
        "data": TensorDataset(torch.zeros(10, 1)),
        "schedule": lambda epoch: 0.1,
        "create_model": Known,
        "scheduler": lr_plugins.LearningRateScheduler(lr_plugins.Constant(0.1)),
    }
    value = eval(line, known)
    assert value is not None
    assert isinstance(ast.parse(line, mode="eval").body, (ast.Call, ast.Attribute))


THEIRS = [
    code(row[0]) for row in LINES if re.match(r"`(LearningRateScheduler|ReduceLR|SGD|Adam|Early|ModelCh)", row[0])
]


@pytest.mark.parametrize("line", [line for line in THEIRS if line])
def test_keras_lines_run_in_keras(line):
    known = {**vars(keras.callbacks), **vars(keras.optimizers), "schedule": lambda epoch: 0.1}
    if "decay=" in line:
        with pytest.raises(ValueError, match="not recognized"):  # `lr` is Keras 2's name
            eval(line, known)
        with pytest.warns(UserWarning, match="`decay` is no longer supported and will be ignored"):
            eval(line.replace("lr=", "learning_rate="), known)
    else:
        assert eval(line, known) is not None


CONSTRAINTS = [(code(row[0]), code(row[1])) for row in rows("Constraints")]


class Layers(torch.nn.Module):
    """The layers that the table names."""

    def __init__(self):
        super().__init__()
        self.hidden, self.conv = torch.nn.Linear(5, 4), torch.nn.Conv2d(2, 4, 3)


def first_update(theirs, ours):
    """The weights before and after an update that moves nothing: in Keras, and in the layer of ours."""
    layer = eval(theirs, {**vars(keras.layers), **vars(keras.constraints)})
    is_conv = theirs.startswith("Conv")
    layer.build((None, 8, 8, 2) if is_conv else (None, 5))
    generator = np.random.default_rng(0)
    for weight in layer.trainable_variables:
        weight.assign(3 * generator.standard_normal(weight.shape))
    starts = [weight.value.detach().clone() for weight in layer.trainable_variables]
    with keras.device("cpu"):
        optimizer = keras.optimizers.SGD(0.0)
        optimizer.apply([torch.zeros_like(start) for start in starts], layer.trainable_variables)
    module = Layers()
    port, to_torch, to_keras = (module.conv, (3, 2, 0, 1), (2, 3, 1, 0)) if is_conv else (module.hidden, (1, 0), (1, 0))
    callback = eval(ours, {"Constraints": constraints.Constraints, **vars(constraints)})
    with torch.no_grad():
        port.weight.copy_(starts[0].permute(to_torch))
        port.bias.copy_(starts[1])
    sgd = torch.optim.SGD(module.parameters(), lr=0.0)
    constraints.constrain(sgd, module, callback.constraints, callback.layout)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sgd.step()
    expected = [weight.value.detach() for weight in layer.trainable_variables]
    return starts, expected, [port.weight.detach().permute(to_keras), port.bias.detach()]


@pytest.mark.parametrize(("theirs", "ours"), CONSTRAINTS)
def test_constraint_equals_keras(theirs, ours):
    starts, expected, found = first_update(theirs, ours)
    assert not torch.equal(starts[0], expected[0])
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-7)


def test_every_constraint_of_keras_has_a_row():
    table = " ".join(theirs for theirs, _ in CONSTRAINTS)
    public = [one for one in vars(keras.constraints).values() if isinstance(one, type)]
    assert {one.__name__ for one in public} == {"Constraint", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"}
    assert all(f"{name}(" in table for name in ("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"))


# --- traps that no test of tests/parity has ------------------------------------------------------------------


def test_the_defaults_that_the_page_names():
    assert keras.optimizers.Adam().epsilon == 1e-7
    assert torch.optim.Adam(Known().parameters()).defaults["eps"] == 1e-8
    assert float(keras.optimizers.get("sgd").learning_rate) == pytest.approx(0.01)
    assert (keras.callbacks.EarlyStopping().patience, pl.callbacks.EarlyStopping("loss").patience) == (0, 3)
    assert float(keras.optimizers.SGD(0.002).learning_rate) == 0.0020000000949949026


def test_integer_initial_rate_zeroes_the_cosine_only_in_keras():
    arguments = {"decay_steps": 100, "warmup_target": 0.1, "warmup_steps": 10}
    assert float(keras.optimizers.schedules.CosineDecay(0, **arguments)(20)) == 0
    assert lr_plugins.keras.CosineDecay(0, **arguments)(20) == pytest.approx(0.0975528, rel=1e-6)


def test_a_schedule_object_and_a_scheduler_are_an_error_in_keras():
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)), "mse")
    zeros, scheduler = np.zeros((1, 1)), keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)
    with pytest.raises(TypeError, match="its learning rate is not settable"):
        model.fit(zeros, zeros, verbose=0, callbacks=[scheduler])
