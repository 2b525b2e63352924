"""A schedule that is asked gives a finite number >= 0, or says at which step it has none; of a block and one by one."""

import math
import pickle
import time
import warnings

import numpy as np
import pytest

from lr_plugins import Assign, keras, preview
from lr_plugins import schedules as s
from lr_plugins.errors import ImpossibleValueError, InvalidArgumentError, LearningRateError, TrainingError, shown
from lr_plugins.schedules import Position, RunLength, Schedule
from lr_plugins.schedules.duration import Duration

RUN = RunLength.of(steps_per_epoch=45, epochs=10)

# (schedule, the first step at which it has no value, what it gives there)
OVERFLOWS = {
    "step decay": (s.StepDecay(0.1, drop=10, every="1st"), 309, "inf"),
    "exponential": (s.ExponentialDecay(0.1, decay_steps="1st", decay_rate=10.0), 309, "inf"),
    "multi step": (s.MultiStepDecay(0.1, milestones=["7st", "9st"], gamma=1e300), 9, "inf"),
    "product": (s.Constant(1e300) * s.Constant(1e300), 0, "inf"),
    "product of numbers": (1e300 * s.Constant(1e300), 0, "inf"),
    "nan of a product": (
        s.Product([s.StepDecay(0.1, drop=1e200, every="5st"), s.StepDecay(1.0, drop=1e-200, every="5st")]),
        10,
        "nan",
    ),
    "one cycle": (s.OneCycle(0.1, div_factor=1e-300, final_div_factor=1e-300, total_steps=9), 2, "inf"),
    "restarts": (s.CosineRestarts(0.1, first_decay_steps="5st", t_mul=1.0, m_mul=1e200), 10, "inf|nan"),
    "warm-up": (s.StepDecay(0.1, drop=10, every="1st").with_warmup("10st"), 319, "inf"),
    "chain": (s.Chain([s.Constant(0.1), s.StepDecay(0.1, drop=1e200, every="1st")], lengths=["20st"]), 22, "inf"),
    "noise": (s.Noise(s.Constant(1.7e308), every="1st", seed=3), None, "inf"),
    "keras exponential": (keras.ExponentialDecay(0.1, 1, 10.0), 309, "inf"),
    "keras in single precision": (keras.ExponentialDecay(0.1, 1, 10.0, dtype="float32"), 39, "inf"),
    "below 0": (keras.InverseTimeDecay(1e308, 1, 0.0) * s.Constant(10.0), 0, "inf"),
    "epochs": (s.StepDecay(0.1, drop=1e100, every="1ep"), 180, "inf"),
}


@pytest.mark.parametrize("name", OVERFLOWS)
def test_a_value_that_overflows_is_told_with_its_step(name):
    schedule, first, value = OVERFLOWS[name]
    message = (
        rf"the schedule gives ({value}) at step {r'[0-9]+' if first is None else first}: {type(schedule).__name__}\("
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImpossibleValueError, match=message):
            schedule(RUN.position(np.arange(450)))
        with pytest.raises(ImpossibleValueError, match=message):
            [schedule(RUN.position(step)) for step in range(450)]
        if first:
            assert np.isfinite(schedule(RUN.position(np.arange(first)))).all()
        with pytest.raises(TrainingError, match=message):
            preview(schedule, steps_per_epoch=45, epochs=10)


def test_a_bound_makes_a_number_of_what_overflows():
    growing = s.StepDecay(0.1, drop=10, every="1st").at_most(1.0)
    assert growing(400) == growing(np.array([400]))[0] == 1.0
    assert preview(growing, steps=450, steps_per_epoch=45).last == 1.0


class Gives(Schedule):
    """Whatever it was told to."""

    def __init__(self, what):
        self.what = what

    def value(self, position, state):
        return self.what


NO_VALUES = [math.nan, math.inf, -1.0, -1e-320, 1j, "0.1", None, True, np.bool_(True), [0.1], np.array([0.1, 0.2]), {}]


@pytest.mark.parametrize("value", NO_VALUES, ids=repr)
def test_what_a_schedule_of_a_user_gives_is_checked(value):
    for position in (3, RUN.position(3), RUN.position(np.int64(3))):
        with pytest.raises(TrainingError, match=r"a finite number >= 0; the schedule gives .* at step 3: Gives\(what="):
            Gives(value)(position)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.int64(2), -0.0], ids=repr)
def test_a_number_of_any_type_is_a_value(value):
    assert Gives(value)(3) is value
    assert Gives(value)(np.arange(3)).tolist() == [value] * 3


def test_an_error_in_a_formula_is_told_as_what_it_is():
    too_many = s.StepDecay(0.1)
    with pytest.raises(ImpossibleValueError, match=r"gives no number \(integer division result too large"):
        too_many(Position(0, 10**400))
    for wrong in (Position("a"), Position(None, "a"), Position(np.array(["a"]))):
        with pytest.raises(InvalidArgumentError, match=r"Position\.(step|epoch) must be a number"):
            s.InverseTimeDecay(0.1, decay_steps="1ep" if wrong.step is None else 1)(wrong)

    def broken(epoch):
        return 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:  # a fault of the user's function keeps its traceback
        s.FunctionSchedule(broken)(RUN.position(3))
    assert caught.value.__cause__ is None


def test_an_impossible_value_comes_from_another_process():
    with pytest.raises(ImpossibleValueError) as caught:
        s.StepDecay(0.1, drop=10, every="1st")(400)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), type(again)) == (str(caught.value), ImpossibleValueError)
    assert str(again.meant_for("momentum", "a number >= 0 and < 1")).startswith(
        "the momentum must be a number >= 0 and"
    )


# --- what cannot work in any run ------------------------------------------------------------------------------

SURE = {
    "restarts": lambda: s.CosineRestarts(first_decay_steps="1e-320ep"),
    "restarts, long": lambda: s.CosineRestarts(first_decay_steps="1e308ep"),
    "one cycle": lambda: s.OneCycle(final_div_factor=1e-320),
    "one cycle, first": lambda: s.OneCycle(div_factor=5e-324),
    "stretched": lambda: s.CosineDecay(0.1).stretched(1e-310),
    "repeated": lambda: s.CosineDecay(0.1).repeated("1e-200%"),
    "warm-up": lambda: s.CosineDecay(0.1).with_warmup("5%", start_factor=1e-320, shape="exponential"),
    "keras": lambda: keras.ExponentialDecay(0.1, 1, -0.5),
    "as planned": lambda: s.Replanned(s.Constant(0.1), ratio=1e-320),
    "duration unit": lambda: Duration(1, "xx"),
    "duration unit's case": lambda: Duration(1, "EP"),
    "duration unit's kind": lambda: Duration(1, None),
    "duration text": lambda: Duration("a", "ep"),
    "duration number in a text": lambda: Duration("5", "ep"),
    "duration nan": lambda: Duration(math.nan, "ep"),
    "duration inf": lambda: Duration(math.inf, "ep"),
    "duration bool": lambda: Duration(True, "ep"),
    "duration negative": lambda: Duration(-1, "ep"),
    "duration numpy": lambda: Duration(np.float64("nan"), "ep"),
    "duration too short": lambda: Duration(1e-320, "ep"),
    "duration too long": lambda: Duration(1e308, "ep"),
    "duration, huge integer": lambda: Duration(10**400, "st"),
    "half a step": lambda: Duration.of(0.5),
    "other digits": lambda: s.StepDecay(0.1, every="٣ep"),
    "other letters": lambda: s.StepDecay(0.1, every="5ſt"),
    "run length": lambda: RunLength(steps_per_epoch=math.nan),
    "run length of": lambda: RunLength.of(steps_per_epoch=0, epochs=3),
    "run length, text": lambda: RunLength.of("10", 3),
    "run length, product": lambda: RunLength.of(1e300, 1e300),
}


@pytest.mark.parametrize("name", SURE)
def test_what_cannot_work_in_any_run_is_refused_at_once(name):
    with pytest.raises(InvalidArgumentError, match=r"^[A-Za-z_.]+ must be .*; got .*[.?]$") as caught:
        SURE[name]()
    assert len(str(caught.value)) < 500


def test_numbers_of_numpy_are_kept_as_pythons_own():
    for length in (Duration(np.int64(3), "ep"), Duration(np.float64(3.0), "ep"), Duration.of(np.str_("3ep"))):
        assert (length, type(length.value)) == (Duration(3, "ep"), int)
    run = RunLength.of(np.int64(45), np.float64(10))
    assert run == RUN
    assert [type(one) for one in run[:3]] == [int, float, float]


@pytest.mark.parametrize("length", ["1e-12%", "1e-9%", "1e-5%", "1e-12ep", "1e300%", "1e300ep", "1e300st", 2**63, 1e19])
def test_lengths_of_any_size_leave_numbers(length):
    kinds = (
        s.CosineDecay(0.1, decay_steps=length), s.CosineRestarts(0.1, first_decay_steps=length),
        s.Cyclic(0.0, 0.1, up_steps=length), s.OneCycle(0.1, total_steps=length),
        s.StepDecay(0.1, drop=0.5, every=length), s.Repeated(s.CosineDecay(0.1), every=length),
        s.CosineDecay(0.1).with_warmup(length),
        s.Chain([s.CosineDecay(0.1), s.Constant(0.2)], lengths=[length]),
        s.Annealed(s.Constant(0.1), end_learning_rate=0.0, after=length),
        s.PolynomialDecay(0.1, decay_steps=length, cycle=True), s.Noise(s.Constant(0.1), every=length),
        s.PiecewiseConstant([length], [1, 2]),
    )  # fmt: skip
    for schedule in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values = schedule(RUN.position(np.arange(450)))
            assert values.tolist() == [schedule(RUN.position(step)) for step in range(450)]
        assert np.isfinite(values).all()


# --- many elements --------------------------------------------------------------------------------------------

MANY = 30_000
TIMES = [f"{time}st" for time in range(1, MANY + 1)]
LISTS = {
    "constant": lambda: s.PiecewiseConstant(TIMES, [1 / time for time in range(1, MANY + 2)]),
    "constant, in percent": lambda: s.PiecewiseConstant(
        [f"{100 * time / MANY!r}%" for time in range(1, MANY)], [1 / time for time in range(1, MANY + 1)]
    ),
    "constant, of two units": lambda: s.PiecewiseConstant(
        [*TIMES[: MANY - 1], f"{MANY}ep"], [1 / time for time in range(1, MANY + 2)]
    ),
    "interpolation": lambda: s.PiecewiseInterpolation([[time, 1 / int(time[:-2])] for time in TIMES]),
    "multi step": lambda: s.MultiStepDecay(0.1, milestones=TIMES[::-1], gamma=0.9999),
    "chain": lambda: s.Chain([s.Constant(1 / time) for time in range(1, 5002)], lengths=["20st"] * 5000),
}


@pytest.mark.parametrize("name", LISTS)
def test_very_many_elements_take_no_time(name):
    begin = time.process_time()
    schedule = LISTS[name]()
    run = RunLength.of(steps_per_epoch=1000, epochs=30)
    steps = np.arange(0, MANY, 299)
    single = [schedule(run.position(step)) for step in steps.tolist()]
    asked = time.process_time()
    single = [schedule(run.position(step)) for step in steps.tolist()]
    assert time.process_time() - asked < 0.5
    assert schedule(run.position(steps)).tolist() == single
    assert len(schedule(run.position(np.arange(4096)))) == 4096
    assert len(repr(schedule)) > MANY
    assert schedule == type(schedule)(**schedule.config())
    assert time.process_time() - begin < 15


def test_what_happens_at_very_many_boundaries_takes_no_time():
    schedule = s.PiecewiseConstant(TIMES[:-1], [1 / time for time in range(1, MANY + 1)])
    begin = time.process_time()
    moments = list(schedule.milestones_in(RunLength.of(steps=MANY).position(np.arange(MANY))))
    assert [moment.at.tolist() for moment in moments[:3]] == [[1], [2], [3]]
    assert len(moments) == MANY - 1
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_boundaries_out_of_order_name_the_first_pair(count):
    times = [f"{time}st" for time in range(1, count + 1)]
    with pytest.raises(
        InvalidArgumentError, match=rf"boundaries\[{count}\] must be greater than the one before it, 1st;"
    ):
        s.PiecewiseConstant([*times, "1st", "1st"], [0.1] * (count + 3))


# --- messages -------------------------------------------------------------------------------------------------


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [
        ["x"] * MANY, "x" * 10**6, {number: number for number in range(MANY)}, [[1] * MANY], 10**5000, Unprintable(),
        [Unprintable()], np.zeros((500, 500)), "a\nb" * 1000, {"a": "b" * 10**6},
        s.MultiStepDecay(0.1, milestones=TIMES),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_message_is_short_and_on_one_line_whatever_the_value(value):
    for refuse in (
        lambda: s.StepDecay(0.1, drop=value),
        lambda: s.StepDecay(0.1, every=value),
        lambda: s.ReduceLROnPlateau(0.1, monitor="loss", mode=value),
        lambda: s.Chain([s.Constant(0.1), value, {}], lengths=[1, 1]),
        lambda: Assign(s.Constant(0.1), layers=value),
    ):
        with pytest.raises(LearningRateError) as caught:
            refuse()
        assert len(str(caught.value)) < 1200
        assert "\n" not in str(caught.value)
        assert len(str(pickle.loads(pickle.dumps(caught.value)))) < 1200 or isinstance(value, (str, int))
    assert len(shown(value)) <= 350


def test_a_long_metric_name_makes_no_long_message():
    with pytest.raises(InvalidArgumentError) as caught:
        s.ReduceLROnPlateau(0.1, monitor="x" * 10**6)
    assert len(str(caught.value)) <= 2000


@pytest.mark.parametrize("lengths", [["7st"] * 40, ["1ep", "2ep"] * 5, ["1ep", "20st", "5%"] * 4, ["1%"] * 40], ids=str)
def test_many_parts_take_turns_as_a_few_do(lengths):
    parts = [s.StepDecay(1 / (index + 1), drop=0.5, every="3st") for index in range(len(lengths) + 1)]
    quick, slow = s.Chain(parts, lengths=lengths), s.Chain(parts, lengths=lengths)
    slow._starts = lambda plan: None
    each = [RUN.position(step) for step in range(-3, 450)]
    assert [quick._turn(one) for one in each] == [slow._turn(one) for one in each]
    block = RUN.position(np.arange(-3, 450))
    assert quick(block).tolist() == slow(block).tolist() == [quick(one) for one in each]
