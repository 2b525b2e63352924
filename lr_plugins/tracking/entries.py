"""The entries of a spool's log: one per line, each with its kind under `"do"`."""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from struct import iter_unpack
from typing import Any

from lr_plugins.tracking.names import encodable, path_problem, sanitize_name
from lr_plugins.tracking.private_files import open_private

Point = tuple[str, float, int, int]
"""Name, value, time in ms, step."""
BY_SPOOL = "spool:"  # prefix of a reference to a run by the spool that started it, when it may have no ID yet
_CHUNK = 1 << 20  # bytes read at once
_LONGEST = 1 << 63  # integers in a database are below this
_KEPT = re.compile(r"[0-9a-f]{32}")
_STATUSES = ("FINISHED", "FAILED", "KILLED")


class UnreadableEntryError(ValueError):
    """A line that is not an entry; the message says why."""


def line_of(entry: Mapping[str, Any]) -> bytes:
    """The line of an entry in the log."""
    return json.dumps(entry).encode() + b"\n"


def line_of_points(time: int, step: int, values: Mapping[str, float], names: dict[str, str]) -> bytes:
    """The line of points, in a third of the time of `line_of`, because there may be one at every training step.

    Args:
        time: ms since 1970.
        step: the optimizer step.
        values: by name.
        names: JSON forms of names seen so far; extended in place.
    """
    points = []
    for name, value in values.items():
        if name not in names:
            names[name] = json.dumps(name)
        # JSON and Python spell NaN and infinity differently.
        points.append(f"{names[name]}: {value!r}" if value - value == 0.0 else f"{names[name]}: {json.dumps(value)}")
    text = f'{{"do": "points", "time": {time}, "step": {step}, "values": {{{", ".join(points)}}}}}\n'
    return text.encode()


def line_of_series(time: int, step: int, name: str, values: bytes) -> bytes:
    """The line of a metric's values at consecutive steps, as little-endian doubles."""
    packed = b64encode(values).decode()
    text = f'{{"do": "series", "time": {time}, "step": {step}, "name": {json.dumps(name)}, "values": "{packed}"}}\n'
    return text.encode()


def dataset_entry(name: str, digest: str, source: str, context: str, profile: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of a dataset, as an input of the run (see `MLflowLogger.log_dataset`)."""
    dataset = {
        "name": name,
        "digest": digest[:36],
        "source_type": "code",
        "source": json.dumps({"tags": {"mlflow.source.name": source}}),
        "profile": json.dumps(dict(profile)),
    }
    return {"do": "dataset", "dataset": dataset, "context": context}


def lines(log: Path, start: int) -> Iterator[tuple[bytes, int]]:
    """The complete lines of a file from a byte on, each with the byte at which it ends.

    Raises:
        ForeignFileError: the file is a link, or belongs to another user.
        OSError: it cannot be read.
    """
    with os.fdopen(open_private(log, os.O_RDONLY), "rb") as file:
        file.seek(start)
        rest = b""
        while chunk := file.read(_CHUNK):
            *complete, rest = (rest + chunk).split(b"\n")
            for line in complete:
                start += len(line) + 1
                yield line, start


def parse(line: bytes) -> dict[str, Any]:
    """The entry of a line, with every field checked.

    Raises:
        UnreadableEntryError: it is not an entry.
    """
    try:
        entry = json.loads(line)
    except RecursionError:
        raise UnreadableEntryError("it is nested too deeply") from None
    except ValueError:
        raise UnreadableEntryError("it was cut off, or is not JSON") from None
    if not isinstance(entry, dict):
        raise UnreadableEntryError("it is not an entry")
    check = _CHECKS.get(entry["do"]) if isinstance(entry.get("do"), str) else None
    if check is None:
        raise UnreadableEntryError(f'"do" must be one of {", ".join(_CHECKS)}; got {str(entry.get("do"))[:40]!r}')
    try:
        return {"do": entry["do"], **check(entry)}
    except RecursionError:  # in the message about a value
        raise UnreadableEntryError("it is nested too deeply") from None


def points_of(entry: Mapping[str, Any]) -> Iterator[Point]:
    """The points of an entry."""
    if entry["do"] == "points":
        for name, value in entry["values"].items():
            yield sanitize_name(name), value, entry["time"], entry["step"]
    elif entry["do"] == "series":
        name, time = sanitize_name(entry["name"]), entry["time"]
        for step, (value,) in enumerate(iter_unpack("<d", entry["values"]), entry["step"]):
            yield name, value, time, step


def number_of_points(line: bytes) -> int:
    """How many points a line has."""
    try:
        return sum(1 for _ in points_of(parse(line)))
    except UnreadableEntryError:
        return 0


# --- what each kind of entry has ---------------------------------------------------------------------------------


def _run(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "time": _time(entry),
        "experiment": _optional(entry, "experiment"),
        "experiment_id": _optional(entry, "experiment_id"),
        "name": _optional(entry, "name"),
        "tags": _texts(entry, "tags", {}),
        "uri": _optional(entry, "uri"),
        "artifact_location": _optional(entry, "artifact_location"),
        "run_id": _optional(entry, "run_id"),
        "resumes": entry.get("resumes") is True,
        "checks": entry.get("checks") is True,
        "joins": entry.get("joins") is True,
        "adds": entry.get("adds") is True,
        "system_metrics": entry.get("system_metrics") is True,
        "program": _text(entry, "program", ""),
        "writer": _text(entry, "writer", ""),
        "spool": _text(entry, "spool", ""),
        "folder": _text(entry, "folder", ""),
    }


def _points(entry: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: _double(name, value) for name, value in _mapping(entry, "values").items()}
    return {"time": _time(entry), "step": _whole(entry, "step"), "values": values}


def _series(entry: Mapping[str, Any]) -> dict[str, Any]:
    try:
        values = b64decode(_text(entry, "values"), validate=True)
    except ValueError:
        raise UnreadableEntryError('"values" must be doubles in base64') from None
    step = _whole(entry, "step")
    if len(values) % 8 or step + len(values) // 8 > _LONGEST:
        raise UnreadableEntryError('"values" must be doubles in base64, up to a step below 2**63')
    return {"time": _time(entry), "step": step, "name": _text(entry, "name"), "values": values}


def _params_or_tags(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"values": _texts(entry, "values")}


def _file(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept, to = _text(entry, "kept"), _optional(entry, "to")
    if not _KEPT.fullmatch(kept):
        raise UnreadableEntryError(f'"kept" must be the name of a copy in the spool; got {kept[:60]!r}')
    problem = path_problem(to) if to else ""
    if problem:
        raise UnreadableEntryError(f'"to" must be {problem}; got {str(to)[:60]!r}')
    return {"kept": kept, "to": to or None}


def _dataset(entry: Mapping[str, Any]) -> dict[str, Any]:
    dataset = _mapping(entry, "dataset")
    fields = ("name", "digest", "source_type", "source", "profile")
    return {"dataset": {name: _text(dataset, name) for name in fields}, "context": _text(entry, "context")}


def _end(entry: Mapping[str, Any]) -> dict[str, Any]:
    status = _text(entry, "status")
    if status not in _STATUSES:
        raise UnreadableEntryError(f'"status" must be one of {", ".join(_STATUSES)}; got {status[:40]!r}')
    return {"time": _time(entry), "status": status, "only_looks": entry.get("only_looks") is True}


_CHECKS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "run": _run,
    "points": _points,
    "series": _series,
    "params": _params_or_tags,
    "tags": _params_or_tags,
    "file": _file,
    "dataset": _dataset,
    "end": _end,
}


def _text(entry: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = entry.get(name, default)
    if not isinstance(value, str):
        raise UnreadableEntryError(f'"{name}" must be a text; got {_short(value)}')
    return encodable(value)


def _optional(entry: Mapping[str, Any], name: str) -> str | None:
    return None if entry.get(name) is None else _text(entry, name)


def _mapping(entry: Mapping[str, Any], name: str, default: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    value = entry.get(name, default)
    if not isinstance(value, dict):
        raise UnreadableEntryError(f'"{name}" must be values by name; got {_short(value)}')
    return value


def _texts(entry: Mapping[str, Any], name: str, default: Mapping[str, Any] | None = None) -> dict[str, str]:
    texts = _mapping(entry, name, default)
    return {encodable(key): _text(texts, key) for key in texts}


def _time(entry: Mapping[str, Any]) -> int:
    time = _whole(entry, "time")
    if time < 0:
        raise UnreadableEntryError(f'"time" must be ms since 1970; got {time}')
    return time


def _whole(entry: Mapping[str, Any], name: str) -> int:
    value = entry.get(name)
    if type(value) is not int or not -_LONGEST <= value < _LONGEST:
        raise UnreadableEntryError(f'"{name}" must be an integer below 2**63; got {_short(value)}')
    return value


def _double(name: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise UnreadableEntryError(f"{name[:60]!r} must be a number; got {_short(value)}")
    try:
        return float(value)
    except OverflowError:
        raise UnreadableEntryError(
            f"{name[:60]!r} must be a number that fits into a double; got a longer one"
        ) from None


def _short(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
