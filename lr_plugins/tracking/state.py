"""How much of a spool has been sent: written by the sender, read by the training."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from lr_plugins.tracking.private_files import ForeignFileError, read_private, replace_private

STATE = "state.json"
_TYPES: dict[str, tuple[type, ...]] = {"None": (str, type(None)), "float": (float, int)}


@dataclass
class State:
    """What the sender has done so far.

    One flat record, because it is a file (`state.json`), and a new field must not make an old one unreadable.

    Args:
        done: bytes of the log that MLflow has.
        before_done: fingerprint of the log before that byte, which reveals a shortened log.
        run_id: the MLflow run's ID; None before it is created.
        run_name: its name.
        experiment_id: its experiment's ID.
        tracking_uri: where it is, without a password.
        writer: who writes to the spool (`Spool.writer`).
        resumed: how often the run has been resumed.
        status_before: the status of a resumed run until something is added to it.
        checks: whether a resumed run may already have some of the points.
        missing: why the run to resume cannot be used; empty if it can.
        error: why nothing can be sent at all; empty if all is well.
        trouble: why nothing can be sent at the moment; empty if all is well.
        answered: whether the trouble is an answer rather than the lack of one.
        asked_at: when the pending request to a server was sent, in s since 1970; 0 without one.
        joined: whether other code started the run, and ends it.
        ended: whether the run's own entry has ended it.
        differing: points that had another value before the run was resumed.
        refused: entries that MLflow does not accept, kept in `refused.jsonl`.
        refusal: why it does not accept the last of them.
        known_before: params that a resumed run had.
        differing_params: params whose recorded value differs from the one logged last; once for each change.
        instead: the tracking URI that replaces the one in the log; empty for the latter.
        before: the run at the original tracking URI that has a part of the log, with its place; empty if none has.
        left_files: files that only that run has.
        ended_as: the status of a continued run before it was reopened.
        names: the original names behind changed ones in a continued run; JSON.
        there: the names that a continued run already had, by kind.
    """

    done: int = 0
    before_done: str = ""
    run_id: str | None = None
    run_name: str | None = None
    experiment_id: str | None = None
    tracking_uri: str | None = None
    writer: str = ""
    resumed: int = 0
    status_before: str = ""
    checks: bool = False
    missing: str = ""
    error: str = ""
    trouble: str = ""
    answered: bool = False
    asked_at: float = 0.0
    joined: bool = False
    ended: bool = False
    differing: int = 0
    refused: int = 0
    refusal: str = ""
    known_before: dict[str, str] = field(default_factory=dict)
    differing_params: list[str] = field(default_factory=list)
    instead: str = ""
    before: str = ""
    left_files: int = 0
    ended_as: str = ""
    names: str = ""
    there: dict[str, list[str]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The run and its tracking URI; empty before the run exists."""
        return f"run {self.run_id} at {self.tracking_uri}" if self.run_id is not None else ""

    @property
    def mark_of_params(self) -> str:
        """The prefix of tags that hold new values of params."""
        return f"resumed-{self.resumed}." if self.resumed else "changed."

    @classmethod
    def read(cls, folder: Path) -> State:
        """The state of a spool; a new one if it cannot be read."""
        try:
            fields = json.loads(read_private(folder / STATE))
        except (OSError, ValueError, RecursionError, ForeignFileError):
            return cls()
        if not isinstance(fields, dict):
            return cls()
        default = cls()
        valid = {name: fields[name] for name in vars(default) if name in fields and _fits(fields[name], default, name)}
        return cls(**valid)

    def write(self, folder: Path) -> None:
        """Replace the previous state atomically.

        Raises:
            OSError: it cannot be written.
        """
        replace_private(folder / STATE, json.dumps(dataclasses.asdict(self)).encode())


def _fits(value: object, default: State, name: str) -> bool:
    initial = getattr(default, name)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
        return False
    if isinstance(initial, list):
        return _are_texts(value)
    if isinstance(value, dict):
        fits_one = _are_texts if name == "there" else lambda text: isinstance(text, str)
        return isinstance(initial, dict) and all(map(fits_one, value.values()))
    return type(value) in _TYPES.get("None" if initial is None else type(initial).__name__, (type(initial),))


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
