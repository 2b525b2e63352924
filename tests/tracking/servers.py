"""A real MLflow server, a proxy that can fail in front of it, and hand-written spools."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow

from lr_plugins.tracking.spool import Spool
from tests import preloaded

SERVE = """
import runpy, sys, os
import mlflow.server
from mlflow.cli import cli

def serve_here(command, extra_env=None, **_):
    os.environ.update(extra_env or {})
    assert command[1] == "-m"
    sys.argv = command[2:]
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)

mlflow.server._exec_cmd = serve_here  # it would start another process, which imports MLflow again
cli()
"""
# What runs a user's jobs on the server: eight processes, each of which imports MLflow.
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class Server:
    """`mlflow server` on its own port; can be killed and restarted."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process = None

    def start(self):
        arguments = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words = ["-c", SERVE, "server", *arguments, "--backend-store-uri", "sqlite:///server.db"]
        with open(os.devnull, "r+b") as nothing:
            self._process = preloaded.Forked(
                words,
                self.folder,
                {**os.environ, **NO_JOBS},
                preloaded.SERVING,
                [nothing.fileno()] * 3,
                own_session=True,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return self
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("the server does not answer")

    def kill(self):
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # including its workers
            self._process.wait()
            self._process = None


class Gate:
    """A proxy in front of a server: forwards requests, or answers them itself.

    Args:
        target: the server's address.
    """

    def __init__(self, target):
        self.answer = None  # (status, body) of its own answer; None forwards the request
        self.wait = 0.0  # seconds before each answer
        self.only = ""  # it answers only paths that contain this
        self.requests = []  # method, path and headers
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def _handle(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                gate.requests.append((self.command, self.path, dict(self.headers)))
                time.sleep(gate.wait)
                status, content, kind = gate._answer(self.command, self.path, self.headers, body, target)
                with contextlib.suppress(OSError):  # the client may have disconnected
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, method, path, headers, body, target):
        if self.answer is not None and self.only in path:
            status, content = self.answer
            return status, content, "text/html" if content.startswith(b"<") else "application/json"
        kept = {name: value for name, value in headers.items() if name.lower() not in ("host", "content-length")}
        request = urllib.request.Request(f"{target}{path}", body or None, kept, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as found:
                return found.status, found.read(), found.headers.get("Content-Type", "")
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers.get("Content-Type", "")

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def entry_of_run(uri, folder, **others):
    """The first entry of a spool."""
    return {
        "do": "run",
        "time": 1,
        "experiment": "by hand",
        "name": None,
        "tags": {},
        "uri": uri,
        "artifact_location": None,
        "run_id": None,
        "resumes": False,
        "checks": False,
        "joins": False,
        "system_metrics": False,
        "program": "test",
        "folder": str(folder),
        **others,
    }


def spool_of(parent, uri, *entries, experiment="by hand", begins=None):
    """A spool as a training leaves it, with these entries; bytes are written as raw lines."""
    spool = Spool.new(parent)
    begun = {"writer": spool.writer, "spool": spool.folder.name, "experiment": experiment, **(begins or {})}
    spool.write(entry_of_run(uri, parent, **begun))
    for entry in entries:
        if isinstance(entry, bytes):
            spool.append(entry)
        else:
            spool.write(entry)
    return spool


def point(step, value=None, name="lr"):
    return {"do": "points", "time": 1, "step": step, "values": {name: 1 / (step + 1) if value is None else value}}


END = {"do": "end", "time": 2, "status": "FINISHED"}


def run_of(uri, experiment="by hand"):
    """The only run of the experiment."""
    client = mlflow.MlflowClient(uri)
    [run] = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run


def points_in(uri, run_id, name="lr"):
    return [(point.step, point.value) for point in mlflow.MlflowClient(uri).get_metric_history(run_id, name)]


def expected(steps):
    return [(step, 1 / (step + 1)) for step in range(steps)]


def refused_in(folder):
    """The entries set aside in a spool, with the reasons."""
    return [json.loads(line) for line in (folder / "refused.jsonl").read_text().splitlines()]


def command(*arguments, cwd=None):
    """The result of `lr-plugins send`."""
    words = ["-m", "lr_plugins", "send", *map(str, arguments)]
    return preloaded.run(words, cwd or os.getcwd(), os.environ, 200, preloaded.SENDING)
