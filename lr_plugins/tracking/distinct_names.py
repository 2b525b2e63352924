"""Names of one kind that stay different where MLflow takes none of them as they are."""

from __future__ import annotations

import json
from collections.abc import Callable

from lr_plugins._lightning import rank_zero_warn
from lr_plugins.errors import shortened
from lr_plugins.tracking.names import LENGTH, marked, sanitize_name


class Names:
    """The names of one kind of thing within a run: each is sanitized, and no two become one.

    Which of two gets the plain name depends on which comes first, so what has been chosen is kept with the run.

    Args:
        kind: what they name, as the user is to read it.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.changed: dict[str, list[str]] = {}
        """What stands for another name in MLflow, with the parts of that name."""
        self.on_new: Callable[[], None] = lambda: None
        """Called when there is one more."""
        self._sanitized: dict[tuple[object, ...], str] = {}
        self._owners: dict[str, str] = {}

    def of(self, name: str, path: tuple[object, ...] = (), shares: Callable[[str], bool] = lambda found: False) -> str:
        """The name to log under; a warning, once, where it cannot be guessed from the given one.

        Args:
            name: the given one.
            path: the names that lead to it, of which the name is made up, where other ones may make up the same.
                Default: it has no other names.
            shares: whether it may have a name, as found, that another thing has. Default: never.
        """
        key = path or (name,)
        known = self._sanitized.get(key)
        if known is not None:
            return known
        found = sanitize_name(name)
        owner = self._owners.get(found)
        if owner is not None and shares(found):
            return found
        if owner is not None:
            found = marked(found, repr(path) if len(path) > 1 else name)
            rank_zero_warn(
                f"The {self.kind}s {owner!r} and {_told(key)} would have the same name in MLflow: the second is "
                f"recorded as {found!r}."
            )
        elif not name or len(name) > LENGTH:
            rank_zero_warn(
                f"MLflow takes 1 to {LENGTH} characters in the name of a {self.kind}: {shortened(name, 60)!r} is "
                f"recorded as {found!r}."
            )
        self._sanitized[key], self._owners[found] = found, shortened(name, 60)
        if found != name:
            self.changed[found] = [str(part) for part in key]
            self.on_new()
        return found

    def take(self, told: str) -> None:
        """Take over what a run has chosen before.

        Args:
            told: what it keeps of all kinds, as JSON; what cannot be read is left out.
        """
        try:
            mine = json.loads(told)[self.kind]
            for found, parts in mine.items():
                self._sanitized[tuple(map(str, parts))] = str(found)
                self._owners[str(found)] = shortened(".".join(map(str, parts)), 60)
                self.changed[str(found)] = [str(part) for part in parts]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return


def _told(path: tuple[object, ...]) -> str:
    """A thing by the names that lead to it."""
    return shortened(" in ".join(map(repr, reversed(path))), 90)
