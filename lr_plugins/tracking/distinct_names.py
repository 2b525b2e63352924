"""Names that stay distinct where MLflow does not accept them as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from lr_plugins.errors import shortened
from lr_plugins.rank_zero import rank_zero_warn
from lr_plugins.tracking.names import LENGTH, marked, sanitize_name


class Names:
    """The names of one kind of thing within a run: each is sanitized, and no two become one.

    Args:
        kind: what they name, as the user is to read it.
        on_change: called when a name is chosen that differs from the given one. Default: nothing.
    """

    def __init__(self, kind: str, on_change: Callable[[], None] = lambda: None) -> None:
        self.kind, self._on_change = kind, on_change
        self.changed: dict[str, list[str]] = {}
        """The names in MLflow that differ from the given ones, with the parts of those."""
        self._sanitized: dict[tuple[object, ...], str] = {}
        self._owners: dict[str, str] = {}
        self._taken: dict[str, str] = {}  # what names stand for that the run had before

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
        if owner is None and self._taken.get(found, name) != name:
            owner = self._taken[found]
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
            self._on_change()
        return found

    def take(self, there: Iterable[str], chosen: Mapping[str, Sequence[str]]) -> None:
        """Continue with the names of a run.

        Args:
            there: the names that the run has.
            chosen: what was chosen for it before (`changed`).
        """
        self._taken = {found: found for found in there}
        for found, parts in chosen.items():
            self._sanitized[tuple(parts)], self.changed[found] = found, list(parts)
            self._taken[found] = shortened(".".join(parts), 60)


class RunNames:
    """The names of a run's metrics, params and tags.

    Which of two names keeps its plain form depends on which comes first, so the run keeps what was chosen.
    """

    def __init__(self) -> None:
        self.on_new: Callable[[str], None] = lambda told: None
        """Called with all that was chosen, as JSON, when a name had to be changed."""
        self._metrics, self._params, self._tags = (Names(kind, self._note) for kind in ("metric", "param", "tag"))
        self._values: dict[str, str] = {}  # of params

    def metric(self, name: str) -> str:
        """The name to log a metric under."""
        return self._metrics.of(name)

    def tag(self, name: str) -> str:
        """The name to log a tag under."""
        return self._tags.of(name)

    def param(self, path: tuple[object, ...], text: str) -> str:
        """The name to log a param under; two params of one name and one value share it.

        Args:
            path: the names that lead to it.
            text: its value.
        """
        found = self._params.of(".".join(map(str, path)), path, lambda name: self._values.get(name) == text)
        self._values[found] = text
        return found

    def take(self, there: Mapping[str, Sequence[str]], told: str) -> None:
        """Continue with the names of a run.

        Args:
            there: the names that the run has, by kind.
            told: what `on_new` was called with for it; what cannot be read is left out.
        """
        for names in (self._metrics, self._params, self._tags):
            names.take(there.get(names.kind, ()), _read(told, names.kind))

    def _note(self) -> None:
        changed = {one.kind: one.changed for one in (self._metrics, self._params, self._tags) if one.changed}
        self.on_new(json.dumps(changed, ensure_ascii=False))


def _read(told: str, kind: str) -> dict[str, list[str]]:
    try:
        chosen = json.loads(told)[kind]
        return {str(found): [str(part) for part in parts] for found, parts in chosen.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _told(path: tuple[object, ...]) -> str:
    """A thing by the names that lead to it."""
    return shortened(" in ".join(map(repr, reversed(path))), 90)
