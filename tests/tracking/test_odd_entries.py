"""An entry that MLflow does not accept is set aside with its reason; the rest arrives."""

import json
import warnings
from pathlib import Path

import mlflow
import pytest

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.tracking import MLflowLogger
from lr_plugins.tracking.entries import UnreadableEntryError, parse
from lr_plugins.tracking.sender import send
from lr_plugins.tracking.spool import spools
from tests.tracking.servers import END, expected, point, points_in, refused_in, run_of, spool_of


def sent(spool):
    return send(spool.folder, "", lambda seconds: None, lambda: True)


DEEP = b'{"do": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
ODD = {
    "an unknown do": ({"do": "dance"}, '"do" must be one of'),
    "no do": ({"time": 1}, '"do" must be one of'),
    "a list as do": ({"do": ["points"]}, '"do" must be one of'),
    "no entry": (b"[1, 2]\n", "it is not an entry"),
    "no JSON": (b'{"do": "points", "ti\n', "cut off, or is not JSON"),
    "zero bytes": (b"\0" * 5000 + b"\n", "cut off, or is not JSON"),
    "no text": (b"\xff\xfe\xfa\n", "cut off, or is not JSON"),
    "deep": (DEEP, "nested too deeply"),
    "points without step": ({"do": "points", "time": 1, "values": {"lr": 1.0}}, '"step" must be an integer'),
    "points without time": ({"do": "points", "step": 1, "values": {"lr": 1.0}}, '"time" must be an integer'),
    "a step too large": (point(10**30, 1.0), '"step" must be an integer below 2\\*\\*63'),
    "a step that is none": ({**point(1), "step": 1.5}, '"step" must be an integer'),
    "a negative time": ({**point(1), "time": -1}, '"time" must be ms'),
    "values that are a list": ({**point(1), "values": [1]}, '"values" must be values by name'),
    "a value that is a text": ({**point(1), "values": {"lr": "high"}}, "'lr' must be a number"),
    "a value too large": ({**point(1), "values": {"lr": 10**400}}, "'lr' must be a number that fits"),
    "a series that is none": ({"do": "series", "time": 1, "step": 0, "name": "lr", "values": "?"}, "doubles in base64"),
    "a series cut off": ({"do": "series", "time": 1, "step": 0, "name": "lr", "values": "AAAA"}, "doubles in base64"),
    "params that are numbers": ({"do": "params", "values": {"a": 1}}, '"a" must be a text'),
    "a file of an unknown place": ({"do": "file", "kept": "../..", "to": "x"}, '"kept" must be the name of a copy'),
    "a file that is not there": ({"do": "file", "kept": "0" * 32, "to": None}, "No such file"),
    "a file out of the run": ({"do": "file", "kept": "0" * 32, "to": "../x"}, '"to" must be a relative path'),
    "an end that is none": ({"do": "end", "time": 1, "status": "DONE"}, '"status" must be one of'),
    "a dataset without fields": ({"do": "dataset", "dataset": {}, "context": "x"}, '"name" must be a text'),
}


@pytest.mark.parametrize("kind", ODD)
def test_invalid_entry_is_set_aside_and_later_ones_arrive(kind, database, tmp_path):
    entry, reason = ODD[kind]
    experiment = f"odd {kind}"
    entries = *map(point, range(5)), entry, *map(point, range(5, 10)), END
    spool = spool_of(tmp_path, database, *entries, experiment=experiment)
    sender = sent(spool)
    run = run_of(database, experiment)
    assert points_in(database, run.info.run_id) == expected(10)
    assert run.info.status == "FINISHED"
    assert (sender.state.refused, sender.state.error, sender.state.trouble) == (1, "", "")
    [aside] = refused_in(spool.folder)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(aside["refused"])


def test_invalid_lines_are_not_parsed_as_entries():
    for entry, _ in ODD.values():
        line = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
        if b'"file"' not in line or b".." in line:
            with pytest.raises(UnreadableEntryError):
                parse(line)


def test_unreadable_first_entry_is_an_error_and_keeps_the_log(database, tmp_path):
    spool = spool_of(tmp_path, database, *map(point, range(5)))
    lines = (spool.folder / "log.jsonl").read_bytes().splitlines(keepends=True)
    (spool.folder / "log.jsonl").write_bytes(b"".join([lines[0][:20] + b"\n", *lines[1:]]))
    sender = sent(spool)
    assert "does not start with a readable entry of a run" in sender.state.error
    assert (spool.folder / "log.jsonl").is_file()


def logged(database, tmp_path, act, experiment):
    """Log ten points around an action; return its warnings and the run."""
    logger = MLflowLogger(experiment, tracking_uri=database, spool_dir=tmp_path / "spool")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(10):
            logger.log_metrics({"lr": 1 / (step + 1)}, step=step)
            if step == 5:
                act(logger)
        logger.finalize("success")
    run = run_of(database, experiment)
    assert points_in(database, run.info.run_id) == expected(10)
    assert run.info.status == "FINISHED"
    assert spools(tmp_path / "spool") == [] or "kept in" in str(caught[-1].message)
    return [
        str(one.message) for one in caught if "lr_plugins" in str(one.filename) or "MLflow" in str(one.message)
    ], run


@pytest.fixture
def quick(monkeypatch):
    """Send within this process when a run ends; starting a sender process takes seconds."""
    from lr_plugins.tracking.delivery import Delivery

    def send_now(self, patience):
        for part in self.parts:
            sender = send(part.spool.folder, part.spool.writer, lambda seconds: None, lambda: True)
            part.state = sender.state
        return not sender.state.error and not sender.state.trouble

    monkeypatch.setattr(Delivery, "_refresh", lambda self: None)
    monkeypatch.setattr(Delivery, "settle", lambda self, patience: None)
    monkeypatch.setattr(Delivery, "await_sent", send_now)


TOLD = {
    "a/../b.txt": (lambda logger: logger.log_text("x", "a/../b.txt"), "leaves out the artifact 'a/../b.txt'"),
    "/etc/x": (lambda logger: logger.log_text("x", "/etc/x"), "leaves out the artifact '/etc/x'"),
    "no name": (lambda logger: logger.log_text("x", ""), "leaves out the artifact ''"),
    "long file name": (lambda logger: logger.log_text("x", "n" * 300), "at most 255 bytes"),
    "control character": (lambda logger: logger.log_text("x", "a\nb.txt"), "printable characters"),
    "artifact path": (lambda logger: logger.log_artifact(__file__, "../up"), "leaves out the artifact '../up"),
    "huge step": (lambda logger: logger.log_metrics({"other": 1.0}, step=10**30), "below 2\\*\\*63"),
    "infinite step": (lambda logger: logger.log_metrics({"other": 1.0}, step=float("inf")), "below 2\\*\\*63"),
    "huge value": (lambda logger: logger.log_metrics({"other": 10**400}, step=1), "too large for a double"),
    "long metric": (lambda logger: logger.log_metrics({"m" * 300: 1.0}, step=1), "1 to 250 characters"),
    "no metric": (lambda logger: logger.log_metrics({"": 1.0}, step=1), "1 to 250 characters"),
    "long param": (lambda logger: logger.log_hyperparams({"p" * 300: "v" * 7000}), "1 to 250 characters"),
}


@pytest.mark.parametrize("kind", TOLD)
def test_invalid_values_are_reported_at_the_call(kind, database, tmp_path, quick):
    act, message = TOLD[kind]
    told, _ = logged(database, tmp_path, act, f"told {kind}".replace("/", "-"))
    assert len(told) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(told[0])


def test_long_param_with_a_long_name_is_stored_in_full(database, tmp_path, quick):
    _, run = logged(database, tmp_path, TOLD["long param"][0], "long param, whole")
    [(name, value)] = run.data.params.items()
    assert (len(name), len(value)) == (250, 6000)
    place = value.partition("whole in ")[2].rstrip(")")
    text = mlflow.MlflowClient(database).download_artifacts(run.info.run_id, place, str(tmp_path))
    assert Path(text).read_text() == "v" * 7000


def test_lone_surrogates_are_escaped(database, tmp_path, quick):
    def act(logger):
        logger.log_hyperparams({"p\ud800": "v\udfff"})
        logger.set_tag("t\ud800", "v\udfff")
        logger.log_text("text \ud800", "note.txt")
        logger.log_metrics({"m\ud800": 1.0}, step=1)

    _, run = logged(database, tmp_path, act, "surrogates")
    assert run.data.params == {"p_": "v\\udfff"}
    assert run.data.tags["t_"] == "v\\udfff"
    assert run.data.metrics["m_"] == 1.0


NAMES = [
    ("acc@1", "acc#1", "acc_1"),
    ("точность🎉", "точность🔥"),
    ("精度", "精度!"),
    ("🎉", "🔥", "_"),
    ("train//x", "train/x", "/train/x"),
    ("हिन्दी", "हिन्दु"),
    ("e\u0301", "\u00e9"),
    ("m" * 260, "m" * 261),
    (".", "..", "a/./b", "a/../b"),
]


@pytest.mark.parametrize("names", NAMES, ids=range(len(NAMES)))
def test_different_names_stay_different(names, database, tmp_path, quick):
    def act(logger):
        logger.log_metrics({name: float(index) for index, name in enumerate(names)}, step=1)
        logger.log_hyperparams({name: str(index) for index, name in enumerate(names)})

    _, run = logged(database, tmp_path, act, f"names {NAMES.index(names)}")
    found = {name: value for name, value in run.data.metrics.items() if name != "lr"}
    assert sorted(found.values()) == [float(index) for index in range(len(names))]
    assert sorted(run.data.params.values()) == [str(index) for index in range(len(names))]
    assert set(found) == set(run.data.params)


@pytest.mark.parametrize(
    "arguments",
    [
        {"experiment_name": ""},
        {"experiment_name": "  "},
        {"experiment_name": "e" * 501},
        {"experiment_name": 2024},
        {"experiment_name": "e\ud800"},
        {"run_name": ""},
        {"run_name": "r" * 501},
        {"tags": {"": "x"}},
        {"tags": {"t" * 501: "x"}},
    ],
)
def test_invalid_names_are_refused_at_construction(arguments):
    with pytest.raises(InvalidArgumentError, match="a string of 1 to"):
        MLflowLogger(**arguments)
