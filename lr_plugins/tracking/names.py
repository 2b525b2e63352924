"""Names and paths as MLflow takes them."""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata

from lr_plugins._lightning import rank_zero_warn
from lr_plugins.errors import shortened

LENGTH = 250
"""Characters that MLflow takes in the name of a metric, a param or a tag."""
_FILE_NAME = 255  # bytes that a file system takes in one name
_REFUSED = re.compile(r"[^\w\-./ :]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def sanitize_name(name: str) -> str:
    """A name that MLflow takes, as much like the given one as can be; a name that it takes as it is.

    Example:
        >>> sanitize_name("acc@1"), sanitize_name("train//x"), sanitize_name("../x"), sanitize_name("loss")
        ('acc_1', 'train/x', '__/x', 'loss')
    """
    allowed = _REFUSED.sub("_", unicodedata.normalize("NFC", name))
    parts = (part if part.strip(".") else "_" * len(part) for part in allowed.split("/") if part)
    found = "/".join(parts) or "_"
    found = f"__{found[2:]}" if found.startswith("..") else found
    return found if len(found) <= LENGTH else _marked(found, name)


def encodable(text: str) -> str:
    r"""A text without lone surrogates, which no encoding has; they are spelled out.

    Example:
        >>> encodable("caf\xe9"), encodable("a\ud800")
        ('caf\xe9', 'a\\ud800')
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class Names:
    """The names of one kind of thing within a run: each is sanitized, and no two become one.

    Args:
        kind: what they name, as the user is to read it.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._sanitized: dict[str, str] = {}
        self._owners: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The name to log under; a warning, once, where it cannot be guessed from the given one."""
        known = self._sanitized.get(name)
        if known is not None:
            return known
        found = sanitize_name(name)
        owner = self._owners.get(found)
        if owner is not None:
            found = _marked(found, name)
            rank_zero_warn(
                f"The {self._kind}s {owner!r} and {shortened(name, 60)!r} would have the same name in MLflow: the "
                f"second is recorded as {found!r}."
            )
        elif not name or len(name) > LENGTH:
            rank_zero_warn(
                f"MLflow takes 1 to {LENGTH} characters in the name of a {self._kind}: {shortened(name, 60)!r} is "
                f"recorded as {found!r}."
            )
        self._sanitized[name], self._owners[found] = found, shortened(name, 60)
        return found


def path_problem(path: str) -> str:
    """Why a path within a run cannot be; empty if it can.

    Example:
        >>> path_problem("notes/note.txt")
        ''
        >>> path_problem("a/../b.txt")
        'a relative path without "." and ".."'
    """
    if posixpath.normpath(path) != path or path.startswith(("/", "..")) or path == ".":
        return 'a relative path without "." and ".."'
    if _CONTROL.search(path) or encodable(path) != path:
        return "a path of characters that can be printed"
    if any(len(part.encode()) > _FILE_NAME for part in path.split("/")):
        return f"a path whose names have at most {_FILE_NAME} bytes"
    return ""


def _marked(sanitized: str, name: str) -> str:
    """A name with a mark that only the given one has."""
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{sanitized[: LENGTH - 9]}-{digest}"
