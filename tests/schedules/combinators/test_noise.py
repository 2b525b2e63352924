"""Noise: where it is, its distribution, and that it is the same at the same place for ever."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.schedules.combinators.noise import Noise
from lr_plugins.schedules.position import RunLength
from lr_plugins.schedules.shapes.constant import Constant
from lr_plugins.schedules.shapes.cosine import CosineDecay
from lr_plugins.schedules.shapes.polynomial import LinearDecay, PolynomialDecay

RUN = RunLength.of(steps_per_epoch=30, epochs=60)  # 1800 steps
NOISES = [
    Noise(PolynomialDecay(0.1)),
    Noise(PolynomialDecay(0.1), every="1st", after="100st", until="50%", limit=0.3, std=0.2, seed=7),
    Noise(CosineDecay(0.1), every="7st", after="3ep", distribution="uniform", limit=1),
]


@pytest.mark.parametrize("schedule", NOISES, ids=repr)
def test_nothing_is_computed_that_numpy_would_warn_of(schedule):
    with np.errstate(all="raise", under="ignore"):  # 0.9 ** 7142 is 0, as it should be
        curve = schedule(RUN.position(np.arange(-5000, 50000)))
    assert np.isfinite(curve).all()
    assert (curve >= 0).all()


ONE = Constant(1.0)


def noise_of(steps=20_000, **arguments):
    return Noise(ONE, every="1st", **arguments)(np.arange(steps)) - 1


@given(step=st.integers(0, 10**12), seed=st.integers(0, 2**64 - 1), every=st.sampled_from(["1st", "3st", "1000st"]))
def test_noise_depends_on_the_seed_and_the_place_only(step, seed, every):
    noisy = Noise(ONE, every=every, seed=seed, limit=0.5)
    alone = noisy(step)
    assert Noise(ONE, every=every, seed=seed, limit=0.5)(step) == alone
    near = np.arange(step - 5, step + 300)
    assert noisy(near)[5] == alone
    assert noisy(near[::-1])[-6] == alone
    far = np.array([[10**12 + 5, step], [0, step]])
    assert noisy(far)[:, 1].tolist() == [alone, alone]
    assert 0.5 <= alone <= 1.5
    other = Noise(ONE, every=every, seed=seed ^ 1, limit=0.5)
    assert other(near[::300] * 1000).tolist() != noisy(near[::300] * 1000).tolist()


def test_noise_of_one_step_is_bit_for_bit_that_of_the_array():
    for law in ({}, {"limit": 0.1, "std": 3.0}, {"distribution": "uniform"}):
        noisy = Noise(ONE, every="1st", **law)
        assert noisy(np.arange(2000)).tolist() == [noisy(step) for step in range(2000)]


def test_these_very_numbers_for_ever():
    """A resumed run must see the noise that it would have seen, under whatever version of NumPy."""
    assert noise_of(4).tolist() == pytest.approx(PINNED_NORMAL, rel=1e-12)
    assert noise_of(4, distribution="uniform", seed=7).tolist() == pytest.approx(PINNED_UNIFORM, rel=1e-12)


PINNED_NORMAL = [0.41023717872531584, -0.3974688325002633, 0.47548604146560614, -0.13174751898444925]
PINNED_UNIFORM = [0.4985784294594531, -0.2742103887715299, -0.10706911080029546, -0.1267743906494473]


@pytest.mark.parametrize(("limit", "std"), [(0.67, 1.0), (1.0, 0.1), (0.3, 0.2), (0.01, 100.0)])
def test_normal_noise_is_the_normal_distribution_cut_off(limit, std):
    noise = np.sort(noise_of(limit=limit, std=std))
    assert -limit <= noise[0] < -0.7 * min(limit, 3 * std)
    assert 0.7 * min(limit, 3 * std) < noise[-1] <= limit
    normal = NormalDist(0, std)
    least, most = normal.cdf(-limit), normal.cdf(limit)
    expected = np.array([(normal.cdf(one) - least) / (most - least) for one in noise])
    # Kolmogorov and Smirnov: with a probability of 0.999 no farther apart than this.
    assert np.abs(expected - (np.arange(noise.size) + 0.5) / noise.size).max() < 1.95 / math.sqrt(noise.size)


def test_normal_noise_is_the_quantiles_of_the_even_numbers():
    even = (noise_of(2000, distribution="uniform", limit=1.0) + 1) / 2
    normal = NormalDist()
    least, most = normal.cdf(-0.5), normal.cdf(0.5)
    expected = [normal.inv_cdf(least + (most - least) * share) for share in even.tolist()]
    assert noise_of(2000, limit=0.5).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_uniform_noise_is_even():
    noise = np.sort(noise_of(limit=0.4, distribution="uniform"))
    assert -0.4 < noise[0] < -0.399
    assert 0.399 < noise[-1] < 0.4
    assert np.abs((noise + 0.4) / 0.8 - (np.arange(noise.size) + 0.5) / noise.size).max() < 1.95 / math.sqrt(noise.size)


def test_successive_noise_is_not_related():
    for law in ({}, {"distribution": "uniform"}):
        noise = noise_of(**law)
        for lag in (1, 2, 3, 4, 256):
            assert abs(np.corrcoef(noise[:-lag], noise[lag:])[0, 1]) < 4 / math.sqrt(noise.size)
        assert abs(np.corrcoef(noise, noise_of(seed=43, **law))[0, 1]) < 4 / math.sqrt(noise.size)


def test_noise_is_held_and_stays_within_its_bounds():
    noisy = Noise(LinearDecay(0.1), every="2ep", after="4ep", until="8ep")
    plain = LinearDecay(0.1)
    factors = np.array([noisy(RUN.position(step)) / plain(RUN.position(step)) for step in range(1799)])
    of_epochs = factors.round(12).reshape(-1)[::30]
    assert of_epochs[:4].tolist() == [1.0] * 4
    assert of_epochs[8:].tolist() == [1.0] * 52
    assert of_epochs[4] == of_epochs[5] != of_epochs[6] == of_epochs[7]
    assert 1.0 not in of_epochs[4:8]
    assert [len(set(factors[begin : begin + 30].round(12))) for begin in (120, 150, 180, 210)] == [1] * 4


def test_noise_without_the_epoch_says_what_is_missing():
    with pytest.raises(TrainingError, match="counts epochs"):
        Noise(ONE)(3)


def test_noise_from_zero_on_is_noise_at_once():
    assert Noise(ONE, every="1st", after=0)(np.arange(9)).tolist() == Noise(ONE, every="1st")(np.arange(9)).tolist()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Noise(0.1), r"Noise\.schedule must be a schedule such as"),
        (lambda: Noise(ONE, every="0ep"), r"Noise\.every must be a number > 0.*got '0ep'"),
        (lambda: Noise(ONE, after="-1ep"), r"Noise\.after must be a number >= 0.*got '-1ep'"),
        (lambda: Noise(ONE, until="0ep"), r"Noise\.until must be a number > 0.*got '0ep'"),
        (lambda: Noise(ONE, limit=1.5), r"Noise\.limit must be a number > 0 and <= 1; got 1\.5"),
        (lambda: Noise(ONE, limit=0), r"Noise\.limit must be a number > 0 and <= 1; got 0"),
        (lambda: Noise(ONE, std=0), r"Noise\.std must be a finite number > 0; got 0"),
        (lambda: Noise(ONE, distribution="even"), r"Noise\.distribution must be one of normal, uniform; got 'even'"),
        (lambda: Noise(ONE, seed=-1), r"Noise\.seed must be an integer >= 0 and < 2 \*\* 64; got -1"),
        (lambda: Noise(ONE, seed=1.0), r"Noise\.seed must be an integer .*got 1\.0"),
        (lambda: Noise(ONE, seed=True), r"Noise\.seed must be an integer .*got True"),
    ],
)
def test_bad_arguments_are_named_with_what_is_allowed(build, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build()
