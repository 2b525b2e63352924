"""CONTRIBUTING.md: the code and the option of its example schedule work as printed."""

import re
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lr_plugins import LearningRateScheduler, RunLength
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.serialization import from_config, to_config
from tests.toys import fit

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
(CODE,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
(OPTION,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
RUN = RunLength.of(steps_per_epoch=10, epochs=10)


@pytest.fixture
def sawtooth(tmp_path, monkeypatch):
    (tmp_path / "sawtooth.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    import sawtooth

    return sawtooth.Sawtooth


def test_sawtooth_formula_and_arguments(sawtooth):
    schedule = sawtooth(0.1)
    assert [schedule(RUN.position(step)) for step in (0, 5, 10, 99)] == pytest.approx([0.1, 0.05, 0.1, 0.01])
    assert sawtooth(period="1ep")(RUN.position(20, 0.2)) == pytest.approx(0.2)
    assert len(list(filter(None, CODE.splitlines()))) == 10
    with pytest.raises(InvalidArgumentError, match=r"Sawtooth\.initial_learning_rate must be"):
        sawtooth(-1)


def test_sawtooth_behaves_like_every_schedule(sawtooth):
    schedule = sawtooth(0.1).with_warmup("5%") * 0.5
    steps = np.arange(100)
    assert schedule(RUN.position(steps)).tolist() == [schedule(RUN.position(int(step))) for step in steps]
    assert from_config(to_config(schedule)) == schedule
    scheduler = LearningRateScheduler(sawtooth(0.1, period=3))
    fit(None, scheduler, epochs=1)
    assert scheduler.trace["lr"].values[:4] == pytest.approx([0.1, 0.2 / 3, 0.1 / 3, 0.1])


def test_sawtooth_option_lists_every_default(sawtooth):
    option = OmegaConf.create(OPTION)
    assert option.pop("_target_") == "lr_plugins.schedules.Sawtooth"
    assert instantiate({"_target_": "sawtooth.Sawtooth", **option}) == sawtooth()
    assert {*option} == {*sawtooth().config()}
