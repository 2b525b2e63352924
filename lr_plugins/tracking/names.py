"""Names and paths that MLflow accepts."""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata

LENGTH = 250
"""Characters that MLflow accepts in the name of a metric, a param or a tag."""
NAMES_TAG = "lr_plugins.names"
"""The tag with the original names behind those that MLflow does not accept."""
_FILE_NAME = 255  # bytes that a file system accepts in one name
_REFUSED = re.compile(r"[^\w\-./ :]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def sanitize_name(name: str) -> str:
    """A name that MLflow accepts, as close to the original as possible; an acceptable name stays as it is.

    Example:
        >>> sanitize_name("acc@1"), sanitize_name("train//x"), sanitize_name("../x"), sanitize_name("loss")
        ('acc_1', 'train/x', '__/x', 'loss')
    """
    allowed = _REFUSED.sub("_", unicodedata.normalize("NFC", name))
    parts = (part if part.strip(".") else "_" * len(part) for part in allowed.split("/") if part)
    sanitized = "/".join(parts) or "_"
    sanitized = f"__{sanitized[2:]}" if sanitized.startswith("..") else sanitized
    return sanitized if len(sanitized) <= LENGTH else marked(sanitized, name)


def encodable(text: str) -> str:
    r"""A string without lone surrogates, which cannot be encoded; they are escaped.

    Example:
        >>> encodable("caf\xe9"), encodable("a\ud800")
        ('caf\xe9', 'a\\ud800')
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def path_problem(path: str) -> str:
    """Why a path within a run is not possible; empty if it is.

    Example:
        >>> path_problem("notes/note.txt")
        ''
        >>> path_problem("a/../b.txt")
        'a relative path without "." and ".."'
    """
    if posixpath.normpath(path) != path or path.startswith(("/", "..")) or path == ".":
        return 'a relative path without "." and ".."'
    if _CONTROL.search(path) or encodable(path) != path:
        return "a path of printable characters"
    if any(len(part.encode()) > _FILE_NAME for part in path.split("/")):
        return f"a path whose names have at most {_FILE_NAME} bytes"
    return ""


def marked(sanitized: str, name: str) -> str:
    """A sanitized name, made unique by a digest of the original."""
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{sanitized[: LENGTH - 9]}-{digest}"
