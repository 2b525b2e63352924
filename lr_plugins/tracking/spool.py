"""What a run has logged and MLflow may not have yet: a file that one process appends to and another one reads.

One line of JSON per entry, with what is to be done under `"do"` (see `Store`). A line is written by a single call of
the operating system as soon as it is logged, so that a process that is killed loses none. The sender keeps beside it
what of it MLflow has (`State`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import uuid
import weakref
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout  # torch brings it

LOG, STATE, LOCK, FILES, REFUSED = "log.jsonl", "state.json", "lock", "files", "refused.jsonl"
SENDING, ERRORS = ".sending", "sender.log"
DEFAULT = Path(".lr_plugins") / "spool"  # in the current folder, as mlflow.db is
BY_SPOOL = "spool:"  # before the name of the spool that a run, which may have no id yet, was begun in
_CHUNK = 1 << 20  # bytes read at once


@dataclass
class State:
    """What the sender has done so far.

    Args:
        done: bytes of the log that MLflow has.
        run_id: the MLflow run's id; None before it is created.
        run_name: its name.
        experiment_id: its experiment's id.
        tracking_uri: where it is.
        writer: who writes to the spool (`Spool.writer`).
        resumed: how often the run has been gone on with.
        status_before: the status of a run that is gone on with, while nothing has been added to it.
        attempted: whether the run may have been created, also if its id was not told.
        checks: whether points may be those that a run which is gone on with has already.
        missing: whether the run to go on with is not there.
        error: why nothing can be sent at all; empty if all is well.
        trouble: why nothing can be sent at the moment; empty if all is well.
        joined: whether the run was begun by others, who end it.
        ended: whether the run has ended by its own word.
        differing: points that had another value before the run was resumed.
        refused: entries that MLflow does not take, kept in `refused.jsonl`.
        refusal: why it refused the last of them.
        known_before: params that a continued run had.
    """

    done: int = 0
    run_id: str | None = None
    run_name: str | None = None
    experiment_id: str | None = None
    tracking_uri: str | None = None
    writer: str = ""
    resumed: int = 0
    status_before: str = ""
    attempted: bool = False
    checks: bool = False
    missing: bool = False
    error: str = ""
    trouble: str = ""
    joined: bool = False
    ended: bool = False
    differing: int = 0
    refused: int = 0
    refusal: str = ""
    known_before: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> State:
        """That of a spool; of a new one where there is none."""
        try:
            return cls(**json.loads((folder / STATE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        """Put it in the place of the one before, whole or not at all."""
        partly = folder / f"{STATE}.part"
        partly.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")
        partly.replace(folder / STATE)


class Spool:
    """The writer's side.

    Where the disk takes no more, entries are held in memory, and written with the next one that it takes.

    Args:
        folder: the spool's own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer = uuid.uuid4().hex
        (folder / FILES).mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._held = b""
        self.trouble = ""  # why entries are held
        weakref.finalize(self, os.close, self._file)
        self.size = os.fstat(self._file).st_size
        if self.size and os.pread(self._file, 1, self.size - 1) != b"\n":
            self.append(b"\n")  # after a line that was cut off

    @classmethod
    def new(cls, parent: Path) -> Spool:
        """One of its own below `parent`."""
        return cls(parent / uuid.uuid4().hex)

    def write(self, entry: dict[str, Any]) -> None:
        """Append an entry."""
        self.append(line_of(entry))

    def append(self, line: bytes) -> None:
        self._held += line
        self.size += len(line)
        try:
            while self._held:
                self._held = self._held[os.write(self._file, self._held) :]
            self.trouble = ""
        except OSError as error:
            self.trouble = str(error)

    def keep(self, path: Path) -> str:
        """Copy a file or a folder into the spool, for the original may change before it is sent; the copy's name."""
        name = uuid.uuid4().hex
        place = self.folder / FILES / name
        place.mkdir()
        if path.is_dir():
            shutil.copytree(path, place / path.name)
        else:
            shutil.copy2(path, place / path.name)
        return name

    def keep_text(self, text: str, file_name: str) -> str:
        """Keep a text as a file of that name; the copy's name."""
        name = uuid.uuid4().hex
        place = self.folder / FILES / name
        place.mkdir()
        (place / file_name).write_text(text, encoding="utf-8")
        return name

    @property
    def is_there(self) -> bool:
        """Whether the file that is written to is still the one in the folder."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.folder / LOG))
        except OSError:
            return False


def entries(folder: Path, start: int) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """The entries from a byte on, each with the byte at which it ends; None for a line that was cut off."""
    with (folder / LOG).open("rb") as file:
        file.seek(start)
        rest = b""
        while chunk := file.read(_CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                start += len(line) + 1
                yield _parsed(line), start


def line_of(entry: dict[str, Any]) -> bytes:
    """An entry as it stands in the log."""
    return json.dumps(entry).encode() + b"\n"


def line_of_points(time: int, step: int, values: Mapping[str, float], names: dict[str, str]) -> bytes:
    """An entry of points, in a third of the time that `line_of` takes: there is one at every step of a training.

    Args:
        time: ms since 1970.
        step: the optimizer step.
        values: by name.
        names: those that have been seen, in JSON; is added to.
    """
    points = []
    for name, value in values.items():
        if name not in names:
            names[name] = json.dumps(name)
        # Of numbers that are none, JSON and Python have different words.
        points.append(f"{names[name]}: {value!r}" if value - value == 0.0 else f"{names[name]}: {json.dumps(value)}")
    text = f'{{"do": "points", "time": {time}, "step": {step}, "values": {{{", ".join(points)}}}}}\n'
    return text.encode()


def line_of_series(time: int, step: int, name: str, values: bytes) -> bytes:
    """An entry of a metric's values at consecutive steps: doubles, the lowest byte first."""
    packed = b64encode(values).decode()
    text = f'{{"do": "series", "time": {time}, "step": {step}, "name": {json.dumps(name)}, "values": "{packed}"}}\n'
    return text.encode()


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def guarded(parent: Path) -> FileLock:
    """Held while a spool is taken up or thrown away."""
    parent.mkdir(parents=True, exist_ok=True)
    return FileLock(parent / LOCK)


def spools(parent: Path) -> list[Path]:
    """The spools below a folder, the oldest first."""
    found = [path.parent for path in parent.glob(f"*/{LOG}")]
    return sorted(found, key=lambda folder: (folder / LOG).stat().st_mtime_ns)


def is_left(folder: Path) -> bool:
    """Whether a spool is there that no process sends."""
    try:
        with FileLock(folder.with_suffix(SENDING), timeout=0):
            return folder.is_dir()
    except Timeout:
        return False


def remove(folder: Path) -> None:
    """Throw a spool away."""
    shutil.rmtree(folder, ignore_errors=True)
