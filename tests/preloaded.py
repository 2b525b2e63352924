"""Runs Python programs in real processes that need not import torch, Lightning and Hydra first, or MLflow.

A server, which is this file as a program, imports them once and forks a process for each program: with the program's
own arguments, folder, environment and streams, to be interrupted and killed like any other. The imports would take
longer than most of the programs. The processes that trainings start to send to MLflow, Lightning's further ranks and
MLflow's servers are forked in the same way. What depends on the imports (what `--help` imports, settings that are read
while importing) needs `subprocess`.

The workers of pytest-xdist share their servers. Each keeps a connection open to those that it uses; a server ends with
the last of them.
"""

import array
import contextlib
import gc
import hashlib
import importlib
import io
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAINING = (
    "lr_plugins.training.cli",
    "lr_plugins.training.run",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "sklearn.datasets",
)
"""What a training imports."""
SENDING = (
    "lr_plugins.commands.send",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking.context.registry",
    "mlflow.tracking.fluent",
)
"""What sending to MLflow imports."""
SERVING = ("uvicorn.main", "mlflow.cli", "mlflow.server.fastapi_app")
"""What `mlflow server` imports."""
LIBRARIES = ("pytorch_lightning", "torchvision", "hydra.main", "matplotlib.backends.backend_agg", "matplotlib.figure")
"""What a training imports that is not ours, for environments with an lr_plugins of their own."""
OTHER_LIGHTNING = ("lightning.pytorch", "lightning.pytorch.cli")
"""The other package of Lightning, without the first."""

# --- the programs, as a test sees them ------------------------------------------------------------------------


class Forked:
    """A process that a server has forked for `python WORDS`, like `subprocess.Popen`.

    Args:
        words: what stands behind `python`: a file, `-m` and a module, or `-c` and code; and its arguments.
        cwd: its folder.
        env: its environment.
        imported: the modules that it need not import.
        streams: the descriptors of its standard streams.
        own_session: whether a terminal's Ctrl-C does not reach it.
        python: the interpreter.
    """

    def __init__(self, words, cwd, env, imported, streams, own_session=False, python=sys.executable):
        self.returncode = None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(_server(imported, python))
        request = {
            "words": [*map(str, words)],
            "folder": str(cwd),
            "environment": dict(env),
            "own_session": own_session,
            "servers": {" ".join(one): _server(one) for one in (TRAINING, SENDING)} if imported == TRAINING else {},
        }
        self._server.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))])
        self._server.sendall(json.dumps(request).encode() + b"\n")
        self._answers = self._server.makefile()
        self.pid = int(self._answers.readline())

    def wait(self, timeout=None):
        """Its status, once it has ended; that of a signal is negative."""
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            status = self._answers.readline()
            self.returncode = int(status) if status else -signal.SIGKILL  # the server itself has ended
            self._server.close()
        return self.returncode

    def poll(self):
        """Its status if it has ended; or else None."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number):
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Program(Forked):
    """A running program with its output in text pipes.

    Args:
        words, cwd, env, imported: as for `Forked`; by default it need not import what a training needs.
        one_stream: whether its errors are part of its output, instead of a stream of their own.
        asks: whether it reads from `stdin`; or else its input is empty.
        python: the interpreter.
    """

    def __init__(self, words, cwd, env, imported=TRAINING, one_stream=False, asks=False, python=sys.executable):
        input_end, into = os.pipe()
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        if one_stream:
            os.dup2(out_end, err_end)
        ends = [input_end, out_end, err_end]
        super().__init__(words, cwd, env, imported, ends, python=python)
        for end in ends:
            os.close(end)
        self.stdin = os.fdopen(into, "w", encoding="utf-8")
        if not asks:
            self.stdin.close()
        self.stdout = os.fdopen(out, encoding="utf-8", errors="replace")
        self.stderr = os.fdopen(err, encoding="utf-8", errors="replace")

    def communicate(self, timeout=None):
        """What it writes until it ends, to its output and to its errors."""
        texts, deadline = {}, None if timeout is None else time.monotonic() + timeout
        streams = self.stdout, self.stderr
        readers = [threading.Thread(target=lambda one=one: texts.update({one: one.read()})) for one in streams]
        for reader in readers:
            reader.daemon = True
            reader.start()
        for reader in readers:
            reader.join(None if deadline is None else max(deadline - time.monotonic(), 0))
        self.wait(None if deadline is None else max(deadline - time.monotonic(), 0.1))
        return texts.get(self.stdout, ""), texts.get(self.stderr, "")


class Sender(Forked):
    """The process that sends a training's spools, which need not import MLflow.

    Args: those of `lr_plugins.tracking.sender_process._start`, in whose place it is called.
    """

    def __init__(self, folder, spools, errors):
        from lr_plugins.tracking.sender_process import _ROOT, _SEND

        input_end, writes = os.pipe()
        out = os.open(os.devnull, os.O_WRONLY) if errors == subprocess.DEVNULL else os.dup(errors)
        words = ["-c", _SEND, _ROOT, *spools]
        super().__init__(words, folder, os.environ, SENDING, [input_end, out, out], own_session=True)
        os.close(input_end)
        os.close(out)
        self.stdin = os.fdopen(writes, "wb")


def run(words, cwd, env, timeout=None, imported=TRAINING, python=sys.executable):
    """Run a program to its end, like `subprocess.run`; it is killed if that takes too long.

    Args:
        words, cwd, env, imported, python: as for `Program`.
        timeout: seconds.
    """
    program = Program(words, cwd, env, imported, python=python)
    try:
        out, err = program.communicate(timeout)
    finally:
        program.kill()
    return subprocess.CompletedProcess(["python", *words], program.returncode, out, err)


_addresses, _connections, _asking = {}, [], threading.Lock()
_PLACE, _RUN = tempfile.gettempdir(), os.environ.get("PYTEST_XDIST_TESTRUNUID", f"{os.getpid()}-{time.time_ns()}")


def _server(imported, python=sys.executable):
    """The address of the server of this test run that has imported some modules."""
    with _asking:
        if (imported, python) not in _addresses:
            _addresses[imported, python] = _found_or_started(imported, python)
    return _addresses[imported, python]


def _found_or_started(imported, python):
    name = hashlib.sha256(repr((imported, python)).encode()).hexdigest()[:8]
    address = Path(_PLACE) / f"preloaded-{_RUN}-{name}" / "socket"
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        connection = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):  # no server yet, or one that is shutting down
            connection.connect(str(address))
            connection.sendall(b"stay")
            if connection.recv(4) == b"here":
                _connections.append(connection)
                return str(address)
        with contextlib.suppress(FileExistsError):  # another worker starts it
            address.parent.mkdir(mode=0o700)
            _start_server(address, imported, python)
        time.sleep(0.05)
    raise TimeoutError(f"the server of preloaded programs does not start: {imported}")


def _start_server(address, imported, python):
    ours = python == sys.executable
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTEST_"))}
    paths = [str(ROOT), os.environ.get("PYTHONPATH")] if ours else []
    server = subprocess.Popen(
        [python, __file__, address, *imported],
        cwd=address.parent,
        env={**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    _connections.append(server)  # nobody waits for it to end
    if server.stdout.readline() != b"ready\n":
        shutil.rmtree(address.parent)  # or other workers would wait for it
        raise RuntimeError(f"the server of preloaded programs does not start: {imported}")


# --- the server -----------------------------------------------------------------------------------------------


def _serve(address):
    """Fork a process for each request until no client is left; returns in such a process, with the request."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen(16)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    running = {}  # the connection of each process, by its ID
    clients = set()  # the connections that test processes keep open
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([server, woken, *clients], [], [], None if clients else 60)
        if not ready or (clients and clients <= {*ready}):  # a connection that can be read has ended
            shutil.rmtree(Path(address).parent)
            sys.exit()
        for connection in clients & {*ready}:
            clients.remove(connection)
            connection.close()
        if woken in ready:
            os.read(woken, 1024)
            _report_ended(running)
        if server in ready:
            connection, _ = server.accept()
            request, streams = _request(connection)
            if request is None:
                clients.add(connection)
                continue
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for other in (server, connection, *running.values(), *clients):
                    other.close()
                os.close(woken)
                os.close(wake)
                return request, streams
            for stream in streams:
                os.close(stream)
            running[pid] = connection
            connection.sendall(b"%d\n" % pid)


def _request(connection):
    """What a process is to do, and its standard streams; (None, ()) for a client that keeps the server running."""
    first, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(3 * 4))
    if first == b"s":
        connection.recv(3)
        connection.sendall(b"here")
        return None, ()
    streams = array.array("i", ancillary[0][2])
    told = b""
    while not told.endswith(b"\n"):
        told += connection.recv(1 << 16)
    return json.loads(told), streams


def _report_ended(running):
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        connection = running.pop(pid)
        with connection, contextlib.suppress(BrokenPipeError):  # nobody waits for it
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(request, streams):
    """Be the program: its streams, folder, environment and random numbers."""
    import numpy

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = os.fdopen(0, closefd=False)
    at_once = bool(request["environment"].get("PYTHONUNBUFFERED"))
    out = os.fdopen(1, "wb", 0 if at_once else -1, closefd=False)
    encoding = request["environment"].get("PYTHONIOENCODING", "utf-8")
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(out, encoding, write_through=at_once)
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(
        os.fdopen(2, "wb", 0, closefd=False), encoding, "backslashreplace", write_through=True
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["own_session"]:
        os.setsid()
    if request["servers"]:
        for modules, address in request["servers"].items():
            _addresses[tuple(modules.split()), sys.executable] = address
        _fork_senders()
        _fork_ranks()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    tempfile.gettempdir()  # from the environment, as imports do while there is room on its disk
    numpy.random.seed()  # noqa: NPY002  # otherwise all programs would draw the same numbers


def _fork_senders():
    """Have the trainings of this process send by processes that have imported MLflow."""
    from lr_plugins.tracking import sender_process

    sender_process._start = Sender


def _fork_ranks():
    """Have Lightning start the other processes of a training as forks, too."""
    from pytorch_lightning.strategies.launchers import subprocess_script

    def popen(command, env, cwd):
        return Forked(command[1:], cwd or os.getcwd(), env, TRAINING, [0, 1, 2])

    subprocess_script.subprocess = types.SimpleNamespace(Popen=popen)


def start(words):
    """Run `python WORDS` in this process."""
    kind, *rest = words
    if kind == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        exec(compile(rest[0], "-c", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        runpy.run_path(kind, run_name="__main__")


def main():
    address, *modules = sys.argv[1:]
    sys.path.remove(str(ROOT / "tests"))  # it has a folder `keras`
    for module in modules:
        importlib.import_module(module)
    if tuple(modules) in (SENDING, SERVING):
        from tests.mlflow_tables import copy_tables

        copy_tables(Path(address).parent)
    gc.freeze()  # a process that searched these objects for garbage would copy their memory
    request, streams = _serve(address)
    _become(request, streams)
    sys.path[:] = [folder for folder in sys.path if folder not in ("", str(ROOT))]
    sys.path += [folder for folder in request["environment"].get("PYTHONPATH", "").split(os.pathsep) if folder]
    start(request["words"])


if __name__ == "__main__":
    main()
