"""Module-scoped fixtures: a database, and a server behind a gate."""

import shutil

import mlflow
import pytest

from tests.tracking.servers import Gate, Server


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A database file without runs; creating the tables takes seconds."""
    file = tmp_path_factory.mktemp("empty") / "test.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="module")
def database(empty_database, tmp_path_factory):
    place = tmp_path_factory.mktemp("database")
    shutil.copy(empty_database, place)
    return f"sqlite:///{place}/test.db"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("server"))
    one.start()
    yield one
    one.kill()


@pytest.fixture
def gate(server):
    one = Gate(server.uri)
    yield one
    one.close()
