"""Has MLflow copy the tables of a new database from an empty one: making them takes 1.5 seconds of processor time."""

import contextlib
import fcntl
import sqlite3


def copy_tables(folder):
    """Make an empty database now, and copy its tables wherever this process, or a fork, is to make some.

    Args:
        folder: where to make it.
    """
    import sqlalchemy
    from mlflow.store.db import utils

    make = utils._initialize_tables
    file = folder / "empty.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    make(engine)
    engine.dispose()

    def copy(engine):
        if engine.dialect.name != "sqlite":
            make(engine)
            return
        with open(file, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not utils._is_empty_database(engine):  # another process was first
                make(engine)
                return
            with contextlib.closing(sqlite3.connect(file)) as empty, contextlib.closing(engine.raw_connection()) as new:
                empty.backup(new.driver_connection)

    utils._initialize_tables = copy
