"""Passwords in addresses: used, and found nowhere in what a run leaves behind."""

import json
import os

import pytest
from omegaconf import OmegaConf

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.tracking.secrets import PASSWORD, USERNAME, masked
from lr_plugins.training.credentials import HIDDEN, check_tracking_uri, hide, mask_files, revealed, without_passwords
from tests.training.test_main import train

SECRET = "sEcr3t"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """What is put into the environment is gone after the test."""
    for name in (USERNAME, PASSWORD, HIDDEN):
        monkeypatch.setenv(name, "{}" if name == HIDDEN else "")


def test_a_servers_password_goes_into_mlflows_variables(capfd):
    words = hide(["seed=1", "logger.tracking_uri=http://me:p%40w@host:5000/x"])
    assert words == ["seed=1", "logger.tracking_uri=http://host:5000/x"]
    assert (os.environ[USERNAME], os.environ[PASSWORD]) == ("me", "p@w")
    console = capfd.readouterr().out
    assert PASSWORD in console
    assert "p@w" not in console


@pytest.mark.parametrize(
    "word",
    [
        "logger.tracking_uri=postgresql://me:{}@host/db",
        "+a.b=[http://me:{}@host,2]",
        "+a={{b:'http://me:{}@host'}}",
        r"logger.tracking_uri=postgresql\://me\:{0}@host/db",
        "data.url=ftp://me:{0}@host,ftp://you:{0}@host",
    ],
)
def test_any_other_password_is_handed_to_those_who_use_it(word):
    [shown] = hide([word.format(SECRET)])
    assert SECRET not in shown
    assert shown == masked(word.format(SECRET).replace("\\", ""))
    config = OmegaConf.create({"a": {"b": ["postgresql://me:***@host/db", "${c}", 3]}, "c": "http://me:***@host"})
    text = json.dumps(OmegaConf.to_container(revealed(config)))
    assert text.count(SECRET) == (1 if "url" not in word else 0)
    assert SECRET not in OmegaConf.to_yaml(config)


def test_one_address_has_one_password():
    with pytest.raises(InvalidArgumentError, match=r"logger\.b must be an address .*'x://me:\*\*\*@host'"):
        hide(["logger.a=x://me:one@host", "logger.b=x://me:two@host"])


def test_an_address_copied_from_a_file_is_told():
    with pytest.raises(InvalidArgumentError, match="MLFLOW_TRACKING_PASSWORD"):
        check_tracking_uri("http://me:***@host")
    check_tracking_uri("http://host")
    check_tracking_uri(None)


def test_files_and_values_are_masked(tmp_path):
    file, mine = tmp_path / "config.yaml", tmp_path / "mine"
    file.write_text("uri: http://me:pw@host\n")
    mine.write_text("http://me:pw@host")
    (tmp_path / "link.yaml").symlink_to(mine)
    mask_files([file, tmp_path / "none.yaml", tmp_path / "link.yaml"])
    assert file.read_text() == "uri: http://me:***@host\n"
    assert mine.read_text() == "http://me:pw@host"
    assert without_passwords({"a": ["x://b:c@d", 1, None]}) == {"a": ["x://b:***@d", 1, None]}


def left_behind(folder, process):
    """The names of what holds the password, of the files of a run and its console."""
    found = {"console"} if SECRET in process.stdout + process.stderr else set()
    files = [path for path in folder.rglob("*") if path.is_file() and "conf" not in path.parts]
    assert files
    return found | {str(path.relative_to(folder)) for path in files if SECRET.encode() in path.read_bytes()}


def test_a_sweep_leaves_no_password_in_any_file(tmp_path):
    (tmp_path / "conf/extra").mkdir(parents=True)
    (tmp_path / "conf/extra/mine.yaml").write_text(f"uri: mysql://you:{SECRET}@host/db\n")
    words = ["data=fake", "trainer.max_epochs=1", "logger=csv", "callbacks=silent", "+extra=mine", "seed=1,2"]
    process = train(tmp_path, "-m", f"--config-dir={tmp_path}/conf", *words, f"+note=http://me:{SECRET}@host")
    assert process.returncode == 0, process.stderr
    assert len(list(tmp_path.glob("multirun/*/*/*/checkpoints/last.ckpt"))) == 2
    assert left_behind(tmp_path, process) == set()
    assert "you:***@host" in next(tmp_path.glob("multirun/*/*/0/.hydra/config.yaml")).read_text()
    assert ":***@host" in next(tmp_path.glob("multirun/*/*/0/checkpoints/settings.json")).read_text()


def test_a_servers_password_is_left_nowhere(tmp_path):
    words = ["data=fake", "trainer.max_epochs=1", f"logger.tracking_uri=http://me:{SECRET}@127.0.0.1:9"]
    process = train(tmp_path, *words)
    assert process.returncode == 0, process.stderr
    assert left_behind(tmp_path, process) == set()
    [file] = tmp_path.glob("outputs/*/*/checkpoints/settings.json")
    assert json.loads(file.read_text())["overrides"][-1] == "logger.tracking_uri=http://127.0.0.1:9"
