"""The page of schedules is complete and generated from the current code."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from docs_tools.catalogue import EXAMPLES, GALLERY, page, write
from lr_plugins import Assignments, RunLength, schedules
from lr_plugins.schedules import Schedule

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "lr_plugins/conf/schedule").glob("*.yaml"))
MEASURED = {"cnn_loss_driven.png", "lr_finder.png", "mlflow.png", "shootout.png"}  # pictures of trainings
SHOWN = {name: schedule for examples in EXAMPLES.values() for name, schedule in examples.items()}


def test_page_matches_the_code():
    assert (ROOT / "docs/schedules.md").read_text() == page(), "run: python -m docs_tools.catalogue docs"


def test_every_picture_exists_and_can_be_generated(tmp_path):
    write(tmp_path)
    made = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert (
        made
        == {path.name for path in (ROOT / "docs/pictures").iterdir()} - MEASURED
        == {f"{name}.png" for name in (*SHOWN, "feedback", "preview")}
    )


def test_every_schedule_is_shown():
    def kinds(schedule):
        return {type(schedule)}.union(*(kinds(part) for part in getattr(schedule, "parts", ())))

    shown = set().union(*(kinds(schedule) for schedule in SHOWN.values()))
    public = {one for one in vars(schedules).values() if isinstance(one, type) and issubclass(one, Schedule)}
    only_within_others = {schedules.Cooldown}
    assert public - {schedules.Schedule} - only_within_others <= shown, "add it to GALLERY of docs_tools/catalogue.py"


@pytest.mark.parametrize("group", GALLERY, ids=lambda group: group.title)
def test_a_group_has_the_schedules_of_one_folder(group):
    assert len({example.kind.__module__.split(".")[2] for example in group.examples.values()}) == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_builds_a_schedule(name):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [f"schedule={name}"])
    assignments = Assignments.of(instantiate(config.schedule))
    run = RunLength.of(steps_per_epoch=45, epochs=10)
    for assignment in assignments:
        rates = [assignment.schedule(run.position(step, 0.002)) for step in range(450)]
        assert all(0 <= rate < 10 for rate in rates)
    assert assignments == Assignments.of(instantiate(config.schedule)) or "function" in config.schedule
