"""The wheel and the editable install, each in its own environment and used from another folder.

The environments see the libraries of the running one, but not its lr_plugins; nothing is fetched.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from lr_plugins import LearningRateScheduler, __version__
from tests import preloaded

ROOT = Path(__file__).parents[2]
GROUP = ROOT / "lr_plugins/conf/schedule"
CONF = ROOT / "conf"
OPTIONS = sorted(path.stem for path in GROUP.glob("*.yaml"))
PAGE = (ROOT / "docs/hydra.md").read_text()
FILES = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^python app\.py(.*)$", PAGE, re.MULTILINE)
PROVIDERS = re.compile(r"^\| (\w+) +\| (\S+)", re.MULTILINE)
HYDRAS = ["hydra", "main"]
INFO = f"lr_plugins-{__version__}.dist-info"
CALLBACK = ROOT / "lr_plugins/conf/callbacks/learning_rate_scheduler.yaml"


def environment():
    """The variables of a process that finds lr_plugins only in its own environment."""
    own = ("PYTHON", "PYTEST_", "HYDRA_", "MLFLOW_", "KERAS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


def run(*command, cwd):
    """A subprocess in that environment."""
    options = {"cwd": cwd, "env": environment(), "capture_output": True, "text": True, "timeout": 150}
    return succeeded(subprocess.run([*map(str, command)], **options))


def train(python, *words, cwd):
    """The same for a training: a process of the environment's own Python, which has imported libraries beforehand."""
    return succeeded(preloaded.run(words, cwd, environment(), 150, preloaded.LIBRARIES, str(python)))


def succeeded(found):
    assert found.returncode == 0, found.stdout + found.stderr
    return found


def pip(*arguments, cwd):
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)


def new_environment(folder, *what):
    """A virtual environment with one thing installed into it, and the path of its Python."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin/python"
    place = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip())
    (place / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    offline = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    pip("install", *offline, "--target", place, *what, cwd=folder)
    return python, place


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "-w", folder, ROOT, cwd=folder)
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def wheel_environment(tmp_path_factory, wheel):
    """Where the wheel is installed: its `python`, and the `home` that lr_plugins has to come from."""
    python, place = new_environment(tmp_path_factory.mktemp("installed") / "venv", wheel)
    return SimpleNamespace(python=python, home=place)


@pytest.fixture(scope="module")
def editable_environment(tmp_path_factory):
    """Where the checkout is installed by `pip install -e`."""
    python, _ = new_environment(tmp_path_factory.mktemp("editable") / "venv", "--editable", ROOT)
    return SimpleNamespace(python=python, home=ROOT)


@pytest.fixture(params=["wheel", "editable"])
def installed(request):
    """Either of them."""
    return request.getfixturevalue(f"{request.param}_environment")


@pytest.fixture
def app(tmp_path):
    """The example app of docs/hydra.md, in its own folder."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_wheel_has_what_it_needs_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.split("/")[0] for name in names}
    assert top == {"lr_plugins", "hydra_plugins", INFO}
    assert {f"lr_plugins/conf/schedule/{name}.yaml" for name in OPTIONS} <= names
    assert {f"lr_plugins/training/conf/{path.relative_to(CONF)}" for path in CONF.rglob("*.yaml")} <= names
    assert {"lr_plugins/py.typed", f"{INFO}/licenses/LICENSE"} <= names
    assert {name for name in names if name.startswith("hydra_plugins/")} == {"hydra_plugins/lr_plugins_search_path.py"}
    metadata = zipfile.ZipFile(wheel).read(f"{INFO}/METADATA").decode()
    required = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, re.MULTILINE)
    assert sorted(required) == ["numpy", "pytorch-lightning", "torch"]


def test_wheel_built_from_the_source_distribution_is_the_same(wheel, tmp_path):
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
        source.extractall(tmp_path)
    assert {"train.py", "conf/train.yaml", "tests/conftest.py", "docs/hydra.md", "CHANGELOG.md", "LICENSE"} <= names
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", cwd=unpacked)
    (again,) = (tmp_path / "again").iterdir()
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


LIBRARY = """
import importlib.metadata, pathlib, sys
import lr_plugins
home = pathlib.Path(lr_plugins.__file__).parent
assert "torch" not in sys.modules, "looking at a schedule needs no torch"
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel
lightnings = set(sys.modules)  # torchmetrics imports torchvision if it is installed
from lr_plugins import KerasSGD, LearningRateAudit, LearningRateScheduler, LearningRateTrace, keras
schedule = keras.ExponentialDecay(0.1, decay_steps=2, decay_rate=0.5, staircase=True)
scheduler = LearningRateScheduler(schedule)
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
callbacks = [scheduler, LearningRateTrace(), LearningRateAudit()]
trainer = pl.Trainer(max_steps=6, limit_val_batches=0, accelerator="cpu", callbacks=callbacks, **quiet)
trainer.fit(BoringModel())
print(home)
print(importlib.metadata.version("lr-plugins"), lr_plugins.__version__, (home / "py.typed").is_file())
print([round(float(lr), 6) for lr in scheduler.trace["lr"].values])
heavy = {"torchvision", "mlflow", "hydra", "omegaconf", "sklearn", "keras", "hydra_plugins"}
print(sorted(heavy & set(sys.modules) - lightnings))
"""


def test_the_library_by_itself(installed, tmp_path):
    home, versions, rates, heavy = run(installed.python, "-c", LIBRARY, cwd=tmp_path).stdout.splitlines()[-4:]
    assert home == str(installed.home / "lr_plugins")
    assert versions == f"{__version__} {__version__} True"
    assert rates == "[0.1, 0.1, 0.05, 0.05, 0.025, 0.025]"
    assert heavy == "[]"


MISSING = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in sys.argv[1:] else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
from lr_plugins import LearningRateScheduler, StepDecay, keras
from lr_plugins.errors import MissingExtraError
from lr_plugins.tracking import MLflowLogger
from lr_plugins.training.data import Digits

trace = LearningRateScheduler(StepDecay()).trace
for wanted in (MLflowLogger, trace.frame, lambda: Digits().setup(), lambda: keras.KerasClassifier):
    try:
        wanted()
    except MissingExtraError as error:
        print(error)
"""


def test_missing_package_names_the_extra_to_install(wheel_environment, tmp_path):
    absent = ("hydra", "omegaconf", "mlflow", "pandas", "sklearn")
    found = run(wheel_environment.python, "-c", MISSING, *absent, cwd=tmp_path)
    assert found.stdout.splitlines() == [
        'MLflowLogger needs mlflow: pip install "lr-plugins[mlflow]"',
        'Trace.frame needs pandas: pip install "lr-plugins[plot]"',
        'Digits needs sklearn: pip install "lr-plugins[train]"',
        'KerasClassifier needs sklearn: pip install "lr-plugins[train]"',
    ]


EVERY = """
import sys
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from lr_plugins.schedules import Assignments

with initialize_config_dir(sys.argv[1], version_base="1.3"):
    loader = GlobalHydra.instance().config_loader()
    print(*(f"{one.provider}={one.path}" for one in loader.get_search_path().get_path()))
    print(*loader.list_groups(""))
    print(*loader.get_group_options("schedule"))
    for option in loader.get_group_options("schedule"):
        cfg = compose("config", [f"schedule={option}"])
        elsewhere = compose(overrides=[f"+schedule@model.plan={option}"])
        assert Assignments.of(instantiate(cfg.schedule)), option
        assert elsewhere.model.plan == cfg.schedule, option
        assert "${" not in str(cfg.schedule), option
    searched = compose("config", ["hydra.searchpath=[pkg://lr_plugins.conf]", "schedule=cosine"])
    assert searched == compose("config", ["schedule=cosine"])
print("torch" in sys.modules)
"""


def test_every_option_builds_a_schedule_in_a_foreign_app(installed, app):
    found = run(installed.python, "-W", "error", "-c", EVERY, app / "conf", cwd=app)
    path, groups, options, torch = found.stdout.splitlines()
    # One provider, and none of train.py's own groups: no model, no data, ...
    assert path.split()[1:-1] == [f"main={app}/conf", "lr_plugins=pkg://lr_plugins.conf"]
    assert sorted(groups.split()) == ["callbacks", "hydra", "schedule"]
    assert options.split() == OPTIONS
    assert (torch, found.stderr) == ("False", "")


OWN = """
import sys
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

with initialize_config_dir(sys.argv[1], version_base="1.3"):
    for option in ("mine", "linear", "cosine"):
        print(instantiate(compose("config", [f"schedule={option}"]).schedule))
"""


def test_user_file_overrides_an_option_and_can_extend_it(wheel_environment, app):
    (app / "conf/schedule").mkdir()
    (app / "conf/schedule/mine.yaml").write_text("defaults: [cosine]\nend_learning_rate: 0.01\n")
    (app / "conf/schedule/linear.yaml").write_text("_target_: lr_plugins.Constant\ninitial_learning_rate: 0.5\n")
    mine, linear, cosine = run(wheel_environment.python, "-c", OWN, app / "conf", cwd=app).stdout.splitlines()
    assert "end_learning_rate=0.01" in mine
    assert linear == "Constant(initial_learning_rate=0.5)"
    assert mine == cosine.replace("end_learning_rate=0.0,", "end_learning_rate=0.01,")


@pytest.mark.parametrize("arguments", COMMANDS)
def test_the_commands_of_the_page_run_the_example_app(wheel_environment, app, arguments):
    found = train(wheel_environment.python, "app.py", *arguments.split(), cwd=app)
    if "--info" in arguments:
        assert [provider for provider, _ in PROVIDERS.findall(found.stdout)][1:] == [*HYDRAS, "lr_plugins", "schema"]
        assert found.stderr == ""
    else:
        runs = re.findall(r"^LearningRateScheduler: 32 steps, lr .*$", found.stdout, re.MULTILINE)
        assert len(set(runs)) == (3 if "-m" in arguments else 1)


def test_train_py_sees_the_schedule_group_once(installed, tmp_path):
    found = run(installed.python, ROOT / "train.py", "--info", "searchpath", cwd=tmp_path)
    assert [provider for provider, _ in PROVIDERS.findall(found.stdout)][1:] == [*HYDRAS, "lr_plugins", "schema"]
    assert found.stderr == ""
    told = run(installed.python, ROOT / "train.py", "--help", cwd=tmp_path).stdout
    assert re.findall(r"^schedule: (.*)$", told, re.MULTILINE) == [", ".join(OPTIONS)]


def test_callback_entry_lists_every_default():
    entry = OmegaConf.to_container(OmegaConf.load(CALLBACK), resolve=False)["learning_rate_scheduler"]
    assert get_class(entry.pop("_target_")) is LearningRateScheduler
    assert entry.pop("schedule") == "${schedule}"
    parameters = inspect.signature(LearningRateScheduler).parameters.values()
    assert entry == {one.name: one.default for one in parameters if one.name != "schedule"}


# --- the command `lr-plugins` ----------------------------------------------------------------------------------

SMALL = ["data=fake", "model=mlp", "trainer.max_epochs=2", "callbacks=silent"]


@pytest.fixture
def command(wheel_environment):
    """`lr-plugins` as the wheel installs it."""
    script = wheel_environment.home / "bin/lr-plugins"
    return lambda *arguments, cwd: train(wheel_environment.python, script, *arguments, cwd=cwd)


def test_wheel_trains_and_resumes_in_an_empty_folder(command, tmp_path):
    trained = command("train", "schedule=step_decay", "trainer.max_epochs=2", cwd=tmp_path).stdout
    assert trained.startswith("Train on 1437 samples, validate on 360 samples\nEpoch 1/2\n")
    assert re.search(r"^plan +followed at 90 of 90 steps$", trained, re.MULTILINE)
    assert {path.name for path in tmp_path.iterdir()} == {".lr_plugins", "mlflow.db", "mlruns", "outputs"}
    resumed = command("train", "ckpt_path=last", "trainer.max_epochs=3", cwd=tmp_path).stdout
    assert "Resuming outputs/" in resumed
    assert re.search(r"^plan +followed at 45 of 45 steps since it was resumed$", resumed, re.MULTILINE)


def test_wheel_sweeps_in_several_processes(command, tmp_path):
    words = ["launcher=joblib", "schedule=step_decay,cosine", "logger=none"]
    out = command("train", "-m", *SMALL, *words, cwd=tmp_path).stdout
    assert len([*tmp_path.glob("multirun/*/*/[01]/checkpoints/last.ckpt")]) == 2
    assert re.search(r"^\| cosine \| 1 \|", out, re.MULTILINE)


def test_wheel_includes_the_recipes_and_the_help(command, tmp_path):
    recipe = OmegaConf.create(command("train", "experiment=iris_step", "--cfg", "job", cwd=tmp_path).stdout)
    assert (recipe.schedule.every, recipe.trainer.max_epochs) == ("10ep", 200)
    page = command("train", "--help", cwd=tmp_path).stdout
    assert page.startswith("lr-plugins train [GROUP=OPTION ...] ")
    assert "train.py" not in page
    folders = command("train", "--info", "searchpath", cwd=tmp_path).stdout
    assert [provider for provider, _ in PROVIDERS.findall(folders)][1:] == [*HYDRAS, "lr_plugins", "schema"]
    foreseen = command("preview", "experiment=iris_step", cwd=tmp_path).stdout
    assert foreseen.startswith("run  200 epochs of 30 steps, 6,000 optimizer steps\n")


def test_an_editable_install_uses_the_configuration_of_the_clone(editable_environment, tmp_path):
    place = "from lr_plugins.training.entry_point import conf_folder; print(conf_folder())"
    assert run(editable_environment.python, "-c", place, cwd=tmp_path).stdout == f"{CONF}\n"


@pytest.mark.parametrize("name", ["train", "preview"])
def test_command_without_its_extra_names_it(wheel_environment, tmp_path, name):
    code = MISSING.partition("from lr_plugins")[0] + f"from lr_plugins.commands import main\nmain(['{name}'])\n"
    process = subprocess.run(
        [wheel_environment.python, "-c", code, "hydra"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    message = f'lr-plugins {name} needs hydra, which is not installed: pip install "lr-plugins[train]"\n'
    assert (process.returncode, process.stderr) == (1, message)
