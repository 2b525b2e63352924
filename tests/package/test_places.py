"""Relative paths resolve against the start folder, not against leftovers of Hydra."""

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lr_plugins.paths import from_start, start_folder


@pytest.fixture
def job(tmp_path):
    """A Hydra job with its own folder: (the start folder, the job folder)."""
    start, folder = tmp_path / "start", tmp_path / "start" / "outputs" / "0"
    folder.mkdir(parents=True)
    before = HydraConfig.instance().cfg
    runtime = {"cwd": str(start), "output_dir": str(folder)}
    HydraConfig.instance().cfg = OmegaConf.create({"hydra": {"runtime": runtime}})
    yield start, folder
    HydraConfig.instance().cfg = before


def test_in_a_job_folder_paths_resolve_against_the_start(job, monkeypatch):
    start, folder = job
    monkeypatch.chdir(folder)
    assert (start_folder(), from_start("data")) == (start, start / "data")


@pytest.mark.parametrize("place", ["start", "elsewhere"])
def test_elsewhere_paths_resolve_against_the_current_folder(job, monkeypatch, tmp_path, place):
    (tmp_path / place).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / place)
    assert (start_folder(), from_start("data")) == (tmp_path / place, tmp_path / place / "data")


def test_after_a_sweep_there_is_no_job(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    left = {"runtime": {"cwd": "/", "output_dir": "???"}}
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": left}))
    assert start_folder() == tmp_path
    assert from_start("~") == Path.home()
