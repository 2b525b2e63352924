"""The connection of a sender to MLflow: its address, its client, and checked requests."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lr_plugins.tracking.answers import MissingError, NotMLflowError, RefusedError, asked
from lr_plugins.tracking.destination import TRACKING_URI, absolute, address_problem
from lr_plugins.tracking.secrets import connectable, has_secret, masked
from lr_plugins.tracking.spool import addresses
from lr_plugins.tracking.state import State


class RunGoneError(Exception):
    """The run has been deleted; it may be restored."""


class Connection:
    """Requests to MLflow on behalf of one run.

    Args:
        folder: the spool's.
        state: updated in place.
    """

    def __init__(self, folder: Path, state: State) -> None:
        self._folder, self.state = folder, state
        self._client: Any = None
        self.address: str | None = None
        """Where MLflow is, with a password if there is one."""

    @property
    def client(self) -> Any:
        """MLflow's client."""
        if self._client is None:  # an earlier sender started the run
            self.connect(self.address_of(self.state.tracking_uri))
        return self._client

    def ask(self, call: Callable[[Any], Any]) -> Any:
        """The result of a call to MLflow's client; meanwhile the state has the time at which it was sent.

        Args:
            call: called with the client.

        Raises:
            RefusedError: as `answers.asked`.
        """
        if not self.is_remote:
            return asked(lambda: call(self.client))
        self._note_asked(time.time())
        try:
            result = asked(lambda: call(self.client))
        except BaseException:
            self._note_asked(0.0)
            raise
        self.state.asked_at = 0.0  # written together with what has been sent
        return result

    def _note_asked(self, at: float) -> None:
        self.state.asked_at = at
        with contextlib.suppress(OSError):
            self.state.write(self._folder)

    def write(self, call: Callable[[Any], Any], is_there: Callable[[Any], bool] = lambda run: True) -> None:
        """Write something to the run, and check that it has arrived, because a proxy may answer in MLflow's place.

        Args:
            call: writes it, called with MLflow's client.
            is_there: whether a run has it. Default: not checked.

        Raises:
            RefusedError: MLflow does not accept it.
            RunGoneError: the run no longer exists.
            NotMLflowError: something answers that is not MLflow.
        """
        try:
            self.ask(call)
        except RefusedError:
            self.run()  # if the run no longer exists, that is the reason
            raise
        if self.is_remote and not is_there(self.run()):
            raise NotMLflowError(f"{self.state.tracking_uri} answers, but does not keep what it is given")

    def run(self) -> Any:
        """The run as MLflow has it now.

        Raises:
            RunGoneError: it no longer exists, or has been deleted.
            NotMLflowError: something answers that is not MLflow.
        """
        run_id = self.state.run_id
        try:
            run = self.ask(lambda client: client.get_run(run_id))
        except MissingError:
            raise RunGoneError(f"run {run_id} no longer exists") from None
        if run.info.run_id != run_id:
            raise NotMLflowError(f"{self.state.tracking_uri} answers, but not as MLflow does")
        if run.info.lifecycle_stage != "active":
            raise RunGoneError(deleted(run_id))
        return run

    @property
    def is_remote(self) -> bool:
        """Whether MLflow is a server, rather than a database that this process opens."""
        return (self.address or self.state.tracking_uri or "").startswith("http")

    def address_of(self, shown: str | None) -> str:
        """The full address, given its masked form in the log; MLflow's default without one.

        Raises:
            RefusedError: it cannot be an address of MLflow.
        """
        from mlflow import get_tracking_uri

        whole = self.whole(shown or os.environ.get(TRACKING_URI) or None)
        address = str(absolute(whole if whole is not None else get_tracking_uri(), Path.cwd()))
        if address_problem(address):
            raise RefusedError(address_problem(address))
        return address

    def connect(self, address: str) -> None:
        """Make a client for an address; with a database, this creates its tables."""
        from mlflow import MlflowClient

        # MLflow would announce each table of a new database.
        for talkative in ("mlflow.store.db.utils", "alembic.runtime.migration", "mlflow.tracking.fluent"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        self.address, self.state.tracking_uri = address, masked(address)
        self._client = MlflowClient(connectable(address))

    def whole(self, shown: str | None) -> str | None:
        """An address with its password, from the environment if that has the same address, or else from the spool."""
        ambient = os.environ.get(TRACKING_URI, "")
        if shown is None or (has_secret(ambient) and masked(ambient) == shown):
            return ambient if shown is not None else None
        return addresses(self._folder).get(shown, shown)


def deleted(run_id: str | None) -> str:
    """What to report of a deleted run."""
    return f"run {run_id} has been deleted; mlflow runs restore --run-id {run_id} brings it back"
