"""Damaged, edited, foreign or differently versioned states: one error of this package, nothing applied."""

import copy
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lr_plugins import (
    Assign,
    BoldDriver,
    CosineDecay,
    Greedy,
    History,
    KerasSGD,
    LearningRateRangeTest,
    LearningRateScheduler,
    LearningRateTrace,
    LossDriven,
    ReduceLROnPlateau,
    StepDecay,
)
from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.callbacks.random_states import RandomStates
from lr_plugins.checkpoint_state import VERSION
from lr_plugins.errors import InvalidArgumentError, LearningRateError, TrainingError
from lr_plugins.interop import ScheduleLR
from lr_plugins.training.classifier import EpochMean
from lr_plugins.training.data import Batches
from tests.toys import Toy, fit


def decay(epoch, lr):
    return 0.9 * lr


SCHEDULES = {
    "plateau": lambda: ReduceLROnPlateau(monitor="loss", patience=1, smoothing=3).with_warmup("3st"),
    "greedy": lambda: Greedy(monitor="loss", patience=0, smoothing=0.5, when="2st") * StepDecay(1.0, every="2ep"),
    "bold": lambda: BoldDriver(monitor="loss"),
    "loss": lambda: LossDriven(monitor="loss", reference="first"),
    "function": lambda: decay,
    "several": lambda: [CosineDecay(0.1), Assign(StepDecay(0.2, every="1ep"), params="bias", to="weight_decay")],
}


def callbacks(folder, schedule):
    return [
        LearningRateRangeTest(num_training_steps=10, on_failure="warn", apply=False, verbose=0),
        History(),
        LastCheckpoint(folder, every_seconds=None, every_n_steps=4, min_seconds=0.0),
        LearningRateScheduler(SCHEDULES[schedule]()),
        LearningRateTrace(folder),
        RandomStates(),
    ]


def module():
    return Toy(lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=0.01))


def train(folder, schedule, epochs=3, **options):
    return fit(module(), *callbacks(folder, schedule), epochs=epochs, **options)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A checkpoint from within an epoch for each schedule, in memory."""
    found = {}
    for name in SCHEDULES:
        folder = tmp_path_factory.mktemp(name)
        train(folder, name, accumulate_grad_batches=1)
        found[name] = torch.load(folder / "previous.ckpt", weights_only=True)
    return found


def states(checkpoint):
    return {name: state for name, state in checkpoint["callbacks"].items() if "ModelCheckpoint" not in name}


def paths(value, path=()):
    """The paths of the parts of a state; for a long list, the first and the last."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)) if len(value) < 5 else (0, len(value) - 1):
            yield from paths(value[index], (*path, index))


def changed(state, path, value=None, delete=False):
    state = copy.deepcopy(state)
    if not path:
        return value
    *before, last = path
    place = state
    for key in before:
        place = place[key]
    if delete:
        del place[last]
    else:
        place[last] = value
    return state


def deep():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


OTHERS = [None, "x", True, -1, 10**30, math.nan, 1e308, [], {}, [[1]], {"a": 1}, (), torch.zeros(3), b"x", deep()]


def load(folder, schedule, name, state):
    """Load a state into a new callback and return whether it was accepted. A refused state changes nothing."""
    [callback] = [one for one in callbacks(folder, schedule) if one.state_key == name]
    before = repr({key: value for key, value in vars(callback).items() if key != "log"})
    error = None
    try:
        callback.load_state_dict(state)
    except LearningRateError as found:
        error = found
    if error is not None:
        assert len(str(error)) < 700
        assert "\n" not in str(error)
        assert repr({key: value for key, value in vars(callback).items() if key != "log"}) == before
    return error is None


NAMES = [
    "LearningRateRangeTest",
    "History",
    "LastCheckpoint",
    "LearningRateScheduler",
    "LearningRateTrace",
    "RandomStates",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_state_has_a_version_and_loads(checkpoints, tmp_path, name):
    for schedule, checkpoint in checkpoints.items():
        state = states(checkpoint)[name]
        assert state["version"] == VERSION
        assert load(tmp_path, schedule, name, state)


# The scheduler's state depends on the schedule.
CASES = [("LearningRateScheduler", schedule) for schedule in SCHEDULES]
CASES += [(name, "loss") for name in NAMES if name != "LearningRateScheduler"]


@pytest.mark.parametrize(("name", "schedule"), CASES)
def test_any_changed_part_loads_or_gives_one_error(checkpoints, tmp_path, name, schedule):
    state = states(checkpoints[schedule])[name]
    for path in paths(state):
        refused = [not load(tmp_path, schedule, name, changed(state, path, other)) for other in OTHERS]
        assert refused[-1], path
        assert sum(refused) >= 5 or "schedule" in path, path  # a configuration is only reported
        if path:
            load(tmp_path, schedule, name, changed(state, path, delete=True))


@pytest.mark.parametrize("name", NAMES)
def test_missing_unknown_or_foreign_fields_are_refused(checkpoints, tmp_path, name):
    state = states(checkpoints["plateau"])[name]
    later = {"counts", "begins", "series", "begun", "active", "is_scheduled", "measured"}
    for key in set(state) - {"epoch_sums", "sums", "unended", "gradients", "version"} - later:
        assert not load(tmp_path, "plateau", name, changed(state, (key,), delete=True))
    assert not load(tmp_path, "plateau", name, {**state, "unknown": 1})
    assert not load(tmp_path, "plateau", name, {**state, 3: 1})
    for other in NAMES:
        if other != name:
            assert not load(tmp_path, "plateau", name, states(checkpoints["plateau"])[other])


@pytest.mark.parametrize("name", NAMES)
def test_other_versions_are_refused(checkpoints, tmp_path, name):
    state = states(checkpoints["plateau"])[name]
    [callback] = [one for one in callbacks(tmp_path, "plateau") if one.state_key == name]
    with pytest.raises(
        TrainingError, match=rf"{name} has no version: an older version .* begin a new run from its wei"
    ):
        callback.load_state_dict(changed(state, ("version",), delete=True))
    with pytest.raises(TrainingError, match=rf"{name} is of version 7, .* a newer one wrote it\. Update lr_plugins"):
        callback.load_state_dict({**state, "version": 7})
    for version in ("1", 1.0, True, None, 0, -1, math.nan):
        with pytest.raises(InvalidArgumentError, match="version in the checkpoint's state"):
            callback.load_state_dict({**state, "version": version})


def test_state_of_another_schedule_class_is_refused(checkpoints, tmp_path):
    state = copy.deepcopy(states(checkpoints["plateau"])["LearningRateScheduler"])
    [key] = state["schedules"]
    for memory in ({"learning_rate": 0.1}, {"1": {"bad": -1}}, {"0": {}}, {"1": {}, "7": {}}, {"1": None}, None, []):
        state["schedules"][key]["state"] = memory
        assert not load(tmp_path, "plateau", "LearningRateScheduler", state)
    state["schedules"][key]["kind"] = "Greedy"
    assert not load(tmp_path, "plateau", "LearningRateScheduler", state)


def test_metric_reduction_of_unknown_name_is_refused(checkpoints, tmp_path):
    for name, field in (("LastCheckpoint", "epoch_sums"), ("LearningRateScheduler", "sums")):
        state = copy.deepcopy(states(checkpoints["loss"])[name])
        state[field][0][0]["reduce_fx"] = "save"
        assert not load(tmp_path, "loss", name, state)


def test_all_states_are_checked_before_one_is_loaded(checkpoints, tmp_path):
    checkpoint = copy.deepcopy(checkpoints["loss"])
    checkpoint["callbacks"]["RandomStates"]["torch"] = None
    file = tmp_path / "edited.ckpt"
    torch.save(checkpoint, file)
    history = History()
    with pytest.raises(InvalidArgumentError, match="torch in the checkpoint's state of RandomStates must be"):
        fit(module(), history, RandomStates(), ckpt_path=file)
    assert history.history == {}


@pytest.mark.parametrize("schedule", ["greedy", "loss", "function", "several"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_resumed_fit_works_or_gives_one_error(checkpoints, tmp_path, schedule, data):
    checkpoint = copy.deepcopy(checkpoints[schedule])
    name = data.draw(st.sampled_from(NAMES))
    path = data.draw(st.sampled_from([path for path in paths(checkpoint["callbacks"][name]) if path]))
    value = data.draw(
        st.one_of(
            st.sampled_from([None, True, "x", [], {}, 10**30]),
            st.integers(-3, 60),
            st.floats(0, 2),
            st.floats(),
            st.integers(0, 2**53),
        )
    )
    checkpoint["callbacks"][name] = changed(checkpoint["callbacks"][name], path, value, delete=data.draw(st.booleans()))
    file = tmp_path / "edited.ckpt"
    torch.save(checkpoint, file)
    try:
        trainer = train(tmp_path / "run", schedule, ckpt_path=file)
    except LearningRateError:
        return
    assert trainer.global_step == 18


# --- states outside callbacks -----------------------------------------------------------------------------------


def schedule_lr():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return ScheduleLR(optimizer, StepDecay(drop=0.5, every="2st"))


def batches():
    return Batches(torch.zeros(8, 1), torch.zeros(8, dtype=torch.int64), batch_size=4)


@pytest.mark.parametrize("make", [schedule_lr, batches, EpochMean])
def test_loops_loaders_and_means_check_their_state(make):
    owner, state = make(), make().state_dict()
    before = repr(owner.state_dict())
    for path in paths(state):
        for other in (None, "x", -1, 10**30, [], {}, {"a": 1}, deep()):
            if "sums" in path and other in (-1, 10**30):
                continue  # a loss can be any number
            with pytest.raises(LearningRateError):
                owner.load_state_dict(changed(state, path, other))
        assert repr(owner.state_dict()) == before
    if make is not schedule_lr:  # its state has torch's format
        assert state["version"] == VERSION
        with pytest.raises(TrainingError, match="older version"):
            owner.load_state_dict({key: value for key, value in state.items() if key != "version"})
    owner.load_state_dict(state)


def test_keras_sgd_checks_its_state():
    def optimizer():
        made = KerasSGD([torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))], lr=0.1, momentum=0.9)
        for weight in made.param_groups[0]["params"]:
            weight.grad = torch.ones_like(weight)
        made.step()
        return made

    state = optimizer().state_dict()
    for path in paths(state):
        for other in (None, "x", -1, math.nan, [], {}, deep(), torch.zeros(7)):
            loaded = optimizer()
            before = repr(loaded.state_dict())
            try:
                loaded.load_state_dict(changed(state, path, other))
            except LearningRateError:
                assert repr(loaded.state_dict()) == before
            else:
                loaded.step()
        if path:
            with pytest.raises(LearningRateError):
                optimizer().load_state_dict({**state, "param_groups": []})
    optimizer().load_state_dict(state)


def test_trace_longer_than_the_resumed_run_is_dropped(checkpoints, tmp_path):
    checkpoint = copy.deepcopy(checkpoints["loss"])
    for series in checkpoint["callbacks"]["LearningRateTrace"]["trace"].values():
        series[0] = 2**50
    file = tmp_path / "edited.ckpt"
    torch.save(checkpoint, file)
    with pytest.warns(UserWarning, match="left out of the trace"):
        train(tmp_path / "run", "loss", ckpt_path=file)
    assert len((tmp_path / "run/lr_trace.csv").read_text().splitlines()) < 30


def test_unchanged_checkpoint_resumes(checkpoints, tmp_path):
    for schedule, checkpoint in checkpoints.items():
        file = tmp_path / "whole.ckpt"
        torch.save(checkpoint, file)
        trainer = train(tmp_path / schedule, schedule, ckpt_path=file)
        assert trainer.global_step == 18
