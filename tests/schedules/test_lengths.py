"""Lengths as users write them: what is read, and what a fraction or another library's word is told."""

import math
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lr_plugins import (
    Annealed,
    Chain,
    Constant,
    Cooldown,
    CosineDecay,
    CosineRestarts,
    Cyclic,
    ExponentialDecay,
    InverseTimeDecay,
    LinearDecay,
    LossDriven,
    MultiStepDecay,
    Noise,
    OneCycle,
    PiecewiseConstant,
    PiecewiseInterpolation,
    ReduceLROnPlateau,
    RunLength,
    StepDecay,
    Warmup,
    WarmupStableDecay,
    keras,
)
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.duration import Duration

ONE = Constant(0.1)

FRACTIONS = {
    "with_warmup(0.05)": (lambda: CosineDecay(0.1).with_warmup(0.05), "Warmup.warmup_steps", "5%"),
    'with_warmup("0.05")': (lambda: CosineDecay(0.1).with_warmup("0.05"), "Warmup.warmup_steps", "5%"),
    'with_warmup("0.05st")': (lambda: CosineDecay(0.1).with_warmup("0.05st"), "Warmup.warmup_steps", "5%"),
    'with_warmup("5e-2")': (lambda: CosineDecay(0.1).with_warmup("5e-2"), "Warmup.warmup_steps", "5%"),
    "with_warmup(np.float32(0.25))": (
        lambda: CosineDecay(0.1).with_warmup(np.float32(0.25)),
        "Warmup.warmup_steps",
        "25%",
    ),
    "with_warmup(Duration)": (lambda: CosineDecay(0.1).with_warmup(Duration(0.05, "st")), "Warmup.warmup_steps", "5%"),
    "with_warmup(1 / 3)": (lambda: CosineDecay(0.1).with_warmup(1 / 3), "Warmup.warmup_steps", "33.3333333333%"),
    "Warmup(prefix=False)": (lambda: Warmup(ONE, warmup_steps=0.1, prefix=False), "Warmup.warmup_steps", "10%"),
    "WarmupStableDecay.warmup_steps": (
        lambda: WarmupStableDecay(warmup_steps=0.05),
        "WarmupStableDecay.warmup_steps",
        "5%",
    ),
    "WarmupStableDecay.decay_steps": (
        lambda: WarmupStableDecay(decay_steps=0.2),
        "WarmupStableDecay.decay_steps",
        "20%",
    ),
    "Chain.lengths": (lambda: Chain([ONE, ONE, ONE], lengths=[10, 0.5]), "Chain.lengths[1]", "50%"),
    "then": (lambda: ONE.then(ONE, after=0.9), "Chain.lengths[0]", "90%"),
    "repeated": (lambda: CosineDecay(0.1).repeated(0.25), "Repeated.every", "25%"),
    "Annealed.after": (lambda: Annealed(ONE, after=0.8), "Annealed.after", "80%"),
    "Annealed.decay_steps": (lambda: Annealed(ONE, decay_steps=0.2), "Annealed.decay_steps", "20%"),
    "Cooldown": (lambda: Cooldown(0.1, decay_steps=0.2), "Cooldown.decay_steps", "20%"),
    "CosineDecay": (lambda: CosineDecay(0.1, decay_steps=0.9), "CosineDecay.decay_steps", "90%"),
    "LinearDecay": (lambda: LinearDecay(0.1, decay_steps=np.float64(0.9)), "LinearDecay.decay_steps", "90%"),
    "ExponentialDecay": (
        lambda: ExponentialDecay(0.1, decay_steps=0.1, decay_rate=0.5),
        "ExponentialDecay.decay_steps",
        "10%",
    ),
    "InverseTimeDecay": (
        lambda: InverseTimeDecay(0.1, decay_steps=0.1, decay_rate=0.5),
        "InverseTimeDecay.decay_steps",
        "10%",
    ),
    "CosineRestarts": (lambda: CosineRestarts(0.1, first_decay_steps=0.1), "CosineRestarts.first_decay_steps", "10%"),
    "OneCycle": (lambda: OneCycle(0.1, total_steps=0.5), "OneCycle.total_steps", "50%"),
    "Cyclic": (lambda: Cyclic(0.1, 0.2, up_steps=0.5), "Cyclic.up_steps", "50%"),
    "samples": (lambda: CosineDecay(0.1, decay_steps="0.5sp"), "CosineDecay.decay_steps", "50%"),
    "point": (lambda: PiecewiseInterpolation([[0, 0.1], [0.5, 0.01]]), "PiecewiseInterpolation.points[1][0]", "50%"),
    "first point": (
        lambda: PiecewiseInterpolation([[0.1, 0.1], [10, 0.01]]),
        "PiecewiseInterpolation.points[0][0]",
        "10%",
    ),
}


@pytest.mark.parametrize(("make", "field", "meant"), FRACTIONS.values(), ids=FRACTIONS)
def test_fraction_of_a_step_is_refused(make, field, meant):
    with pytest.raises(InvalidArgumentError) as refused:
        make()
    told = str(refused.value)
    assert refused.value.field == field
    assert re.search(
        rf'\. [0-9.e-]+ is less than one (optimizer step|sample); did you mean "{re.escape(meant)}"\?$', told
    )


LENGTHS = {
    "StepDecay": (lambda length: StepDecay(0.1, every=length), "StepDecay.every"),
    "MultiStepDecay": (lambda length: MultiStepDecay(0.1, milestones=[length, "9ep"]), "MultiStepDecay.milestones[0]"),
    "PiecewiseConstant": (lambda length: PiecewiseConstant([length], [1, 2]), "PiecewiseConstant.boundaries[0]"),
    "Noise": (lambda length: Noise(ONE, every=length), "Noise.every"),
}


@pytest.mark.parametrize(("make", "field"), LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("length", [0.5, "0.5", ".5", np.float64(0.5)], ids=repr)
def test_fraction_without_a_unit_is_a_fraction_of_a_step(make, field, length):
    with pytest.raises(InvalidArgumentError) as refused:
        make(length)
    assert refused.value.field == field
    assert str(refused.value).endswith('. 0.5 is less than one optimizer step; did you mean "50%"?')


@pytest.mark.parametrize(("make", "field"), LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("length", ["0.5ep", "0.5 EP", "0.5%", Duration(0.5, "ep"), 1, 1.5, "2.5"], ids=repr)
def test_fraction_with_its_unit_is_a_length(make, field, length):
    make(length)


def test_half_an_epoch_is_half_an_epoch():
    schedule = StepDecay(0.1, every="0.5ep").smooth()
    run = RunLength.of(steps_per_epoch=4, epochs=2)
    assert [schedule(run.position(step)) for step in range(8)] == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125]


def test_length_of_more_than_a_step_may_end_within_one():
    schedule = Chain([Constant(1.0), Constant(2.0)], lengths=[2.5])
    assert [schedule(step) for step in range(5)] == [1.0, 1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("nothing", [0, 0.0, "0", "0st", "0%", "0ep", "0sp", np.float64(0.0)], ids=repr)
def test_nothing_is_no_warmup(nothing):
    schedule = Constant(0.1).with_warmup(nothing)
    assert [schedule(step) for step in range(3)] == [0.1, 0.1, 0.1]


IN_KERAS = {
    "ExponentialDecay": (lambda: keras.ExponentialDecay(0.1, 0.1, 0.5), "ExponentialDecay.decay_steps"),
    "InverseTimeDecay": (lambda: keras.InverseTimeDecay(0.1, 0.5, 0.5), "InverseTimeDecay.decay_steps"),
    "PolynomialDecay": (lambda: keras.PolynomialDecay(0.1, 0.9), "PolynomialDecay.decay_steps"),
    "CosineDecay": (lambda: keras.CosineDecay(0.1, 0.9), "CosineDecay.decay_steps"),
    "warm-up": (lambda: keras.CosineDecay(0.0, 90, warmup_target=0.1, warmup_steps=0.1), "CosineDecay.warmup_steps"),
    "restarts": (lambda: keras.CosineDecayRestarts(0.1, 0.1), "CosineDecayRestarts.first_decay_steps"),
    "boundaries": (lambda: keras.PiecewiseConstantDecay([0.5, 3], [1, 2, 3]), "PiecewiseConstantDecay.boundaries[0]"),
}


@pytest.mark.parametrize(("make", "field"), IN_KERAS.values(), ids=IN_KERAS)
def test_fraction_of_a_step_is_refused_under_keras_names(make, field):
    with pytest.raises(
        InvalidArgumentError, match=re.escape(field) + " must be at least one optimizer step; got 0.[159]. For"
    ):
        make()


@given(st.floats(0.0, 1.0, exclude_min=True, exclude_max=True), st.sampled_from([float, str, np.float64]))
@example(5e-324, float)
@example(math.nextafter(1.0, 0.0), float)
def test_no_fraction_is_a_length(value, form):
    with pytest.raises(InvalidArgumentError, match=r"is less than one optimizer step; did you mean \"[0-9.e-]+%\"\?$"):
        Duration.of(form(value))


@given(st.floats(1.0, 1e300), st.sampled_from(["", "st", "ep", "sp", "%"]))
def test_what_is_shown_is_read_again(value, unit):
    length = Duration.of(f"{value!r}{unit}")
    assert Duration.of(str(length)) == Duration.of(length) == length
    assert length.value == value


SUGGESTIONS = {
    "10 epochs": "10ep",
    "10 epoch": "10ep",
    "10epochs": "10ep",
    "10 Epochs": "10ep",
    "10e": "10ep",
    "1.5 epochs": "1.5ep",
    "0.5 epochs": "0.5ep",
    "3eps": "3ep",
    "500 steps": "500st",
    "1 step": "1st",
    "500 it": "500st",
    "500 iterations": "500st",
    "5pct": "5%",
    "5 percent": "5%",
    "0.5 pct": "0.5%",
    "0.1dur": "10%",
    "1dur": "100%",
    "50000 samples": "50000sp",
    "1_000st": "1000st",
    "1_000_000sp": "1000000sp",
    "1,000st": "1000st",
    "1k": "1000st",
    "1K steps": "1000st",
    "2.5k": "2500st",
    "50k samples": "50000sp",
    "1M samples": "1000000sp",
}


@pytest.mark.parametrize(("text", "meant"), SUGGESTIONS.items(), ids=SUGGESTIONS)
def test_other_words_for_a_unit_are_told_ours(text, meant):
    with pytest.raises(InvalidArgumentError) as refused:
        CosineDecay(0.1, decay_steps=text)
    told = str(refused.value)
    assert told.startswith("CosineDecay.decay_steps must be a number > 0, or a text like ")
    assert told.endswith(f'; got {text!r}. Did you mean "{meant}"?')
    assert str(CosineDecay(0.1, decay_steps=meant).decay_steps) == meant


def test_batches_are_told_that_steps_are_counted():
    with pytest.raises(
        InvalidArgumentError, match=r'got \'500 batches\'\. Did you mean "500st" \(optimizer steps\)\?$'
    ):
        CosineDecay(0.1, decay_steps="500 batches")


def test_fraction_in_other_words_is_told_the_share():
    with pytest.raises(InvalidArgumentError, match=r'0\.05 is less than one optimizer step; did you mean "5%"\?$'):
        CosineDecay(0.1).with_warmup("0.05 steps")


@pytest.mark.parametrize("text", ["soon", "10min", "2h", "30s", "-5ep", "5%%", "ep", "", "1,5ep", "0,05", "0 steps"])
def test_what_may_mean_anything_gets_no_suggestion(text):
    with pytest.raises(InvalidArgumentError, match=re.escape(f"got {text!r}.") + "$"):
        CosineDecay(0.1, decay_steps=text)


SAME = {
    "10EP": "10ep",
    "10 ep": "10ep",
    " 10Ep ": "10ep",
    "500ST": "500st",
    "8SP": "8sp",
    "5 %": "5%",
    "1E3St": "1000st",
}


@pytest.mark.parametrize(("text", "canonical"), SAME.items(), ids=repr)
def test_case_and_blanks_do_not_matter(text, canonical):
    assert CosineDecay(0.1, decay_steps=text) == CosineDecay(0.1, decay_steps=canonical)
    assert f"decay_steps='{canonical}'" in repr(CosineDecay(0.1, decay_steps=text))


@pytest.mark.parametrize("make", [ReduceLROnPlateau, LossDriven], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    ("when", "hint"),
    [("50 steps", 'Did you mean "50st"?'), ("50 batches", 'Did you mean "50st" (optimizer steps)?')]
    + [(when, "") for when in (0.05, "0.05", "0.5st", "5 epochs", "5pct", "2ep", "10%", 1.5)],
)
def test_occasion_counts_whole_steps(make, when, hint):
    with pytest.raises(InvalidArgumentError) as refused:
        make(0.1, when=when)
    assert str(refused.value).endswith(
        f'a whole number of optimizer steps such as "50st"; got {when!r}.{" " * bool(hint)}{hint}'
    )
    assert make(0.1, when="50 ST").when == make(0.1, when=50).when == "50st"
