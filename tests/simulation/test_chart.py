"""The text chart."""

import io

import numpy as np
import pytest

from lr_plugins.comparison.histories import Points
from lr_plugins.simulation.chart import chart, only_ascii, terminal_width


def curve(values):
    return Points(np.arange(len(values)), np.asarray(values, np.float64))


def drawing(text, height=13):
    """The rows of the drawing without the axis labels."""
    return [line[11:] for line in text.splitlines()[:height]]


def test_a_line_goes_from_corner_to_corner():
    rows = drawing(chart({"lr": curve(np.linspace(1, 0, 500))}, 500, width=60, ascii=True))
    columns = [row.find("*") for row in rows]
    assert columns[0] == 0
    assert columns == sorted(columns)
    assert rows[-1].rstrip().endswith("*")
    assert len(rows[-1].rstrip()) == 60 - 11


def test_a_jump_is_a_vertical_line():
    rows = drawing(chart({"lr": curve([1.0] * 50 + [0.0] * 50)}, 100, width=60, ascii=True))
    assert rows[0].count("*") == 25
    assert [row.count("*") for row in rows[1:-1]] == [1] * 11
    assert {row.index("*") for row in rows[1:-1]} == {24} or {row.index("*") for row in rows[1:-1]} == {25}


def test_a_spike_of_a_single_step_is_seen():
    values = np.zeros(10_000)
    values[1234] = 1.0
    rows = drawing(chart({"lr": curve(values)}, 10_000, width=60, ascii=True))
    assert [row.count("*") for row in rows[:-1]] == [1] * 12


def test_fewer_steps_than_columns_make_stairs():
    rows = drawing(chart({"lr": curve([1.0, 0.5])}, 2, width=60, ascii=True))
    assert rows[0].count("*") >= 24
    assert rows[6].count("*") >= 24


def test_the_axis():
    text = chart({"lr": curve([0.1, 0.05])}, 2, steps_per_epoch=1, width=60, ascii=True)
    labels = [line[:9].strip() for line in text.splitlines()]
    assert [label for label in labels[:13] if label] == ["0.1", "0.0667", "0.0333", "0"]
    assert labels[-2:] == ["step", "epoch"]
    assert text.splitlines()[-1].split()[-1] == "2"


@pytest.mark.parametrize("values", [[1.0, 1e-3, 1e-6], [1.0, 0.0, 1e-6]])
def test_a_logarithmic_axis(values):
    rows = chart({"lr": curve(values)}, 3, width=60, log=True, ascii=True).splitlines()
    assert [line[:9].strip() for line in rows[:13:4]] == ["1", "0.01", "0.0001", "1e-06"]


def test_flat_curve_gets_a_logarithmic_axis():
    text = chart({"lr": curve(0.5 ** np.arange(100.0))}, 100, width=60, ascii=True)
    assert drawing(text)[6].strip()
    assert "1.58e-30" in text


@pytest.mark.parametrize("values", [[0.1] * 5, [0.0] * 5])
@pytest.mark.parametrize("log", [False, True])
def test_a_constant(values, log):
    rows = drawing(chart({"lr": curve(values)}, 5, width=60, log=log, ascii=True))
    assert sum(row.count("*") for row in rows) == 49


def test_a_momentum_is_not_drawn_from_zero():
    assert "0.85" in chart({"momentum": curve([0.95, 0.85, 0.95])}, 3, width=60)


def test_fine_dots():
    text = chart({"lr": curve([1.0, 1.0, 0.0, 0.0])}, 4, width=60)
    rows = drawing(text)
    assert rows[0] == "⠉" * 24 + "⡏" or rows[0].startswith("⠉" * 24)
    assert rows[-1].strip().strip("⣀⡀⢀⣇⡇⢸⣸") == ""


def test_curves_are_labelled_with_letters():
    text = chart({"one": curve([1.0, 1.0]), "two": curve([0.0, 0.0])}, 2, width=60)
    rows = drawing(text)
    assert rows[0] == "A" * 49
    assert rows[-1] == "B" * 49
    assert text.splitlines()[-2:] == ["           A  one", "           B  two"]


def test_no_line_is_longer_than_the_width():
    values = np.random.default_rng(0).random(1000)
    for width in (40, 80, 133):
        assert max(map(len, chart({"lr": curve(values)}, 1000, 10, width=width).splitlines())) <= width


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_width_is_the_terminals(monkeypatch):
    monkeypatch.setenv("COLUMNS", "123")
    assert terminal_width(Terminal()) == 123
    assert terminal_width(io.StringIO()) == 80
    closed = io.StringIO()
    closed.close()
    assert terminal_width(closed) == 80


@pytest.mark.parametrize(("encoding", "lacks"), [("utf-8", False), ("ascii", True), ("latin-1", True), ("cp437", True)])
def test_an_encoding_without_the_dots_gets_ascii(encoding, lacks):
    assert only_ascii(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) is lacks
