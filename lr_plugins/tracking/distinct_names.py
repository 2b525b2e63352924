"""Names that stay distinct where MLflow does not accept them as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from lr_plugins.errors import shortened
from lr_plugins.rank_zero import rank_zero_warn
from lr_plugins.tracking.names import LENGTH, marked, sanitize_name


class Names:
    """The names of one kind within a run: each is sanitized, and no two become the same.

    Args:
        kind: what they name, as shown to the user.
        on_change: called when a name is chosen that differs from the given one. Default: nothing.
    """

    def __init__(self, kind: str, on_change: Callable[[], None] = lambda: None) -> None:
        self.kind, self._on_change = kind, on_change
        self.changed: dict[str, list[str]] = {}
        """The names in MLflow that differ from the original ones, with the parts of the latter."""
        self._sanitized: dict[tuple[object, ...], str] = {}
        self._owners: dict[str, str] = {}
        self._taken: dict[str, str] = {}  # original names behind those that the run already had

    def of(self, name: str, path: tuple[object, ...] = (), shares: Callable[[str], bool] = lambda name: False) -> str:
        """The name to log under; a warning, once, if it cannot be guessed from the original.

        Args:
            name: the original name.
            path: the parts that the name is joined from, if others may join to the same. Default: the name alone.
            shares: whether it may share a sanitized name with another. Default: never.
        """
        key = path or (name,)
        known = self._sanitized.get(key)
        if known is not None:
            return known
        sanitized = sanitize_name(name)
        owner = self._owners.get(sanitized)
        if owner is None and self._taken.get(sanitized, name) != name:
            owner = self._taken[sanitized]
        if owner is not None and shares(sanitized):
            return sanitized
        if owner is not None:
            sanitized = marked(sanitized, repr(path) if len(path) > 1 else name)
            rank_zero_warn(
                f"The {self.kind}s {owner!r} and {_spelled_out(key)} would have the same name in MLflow: the second is "
                f"recorded as {sanitized!r}."
            )
        elif not name or len(name) > LENGTH:
            rank_zero_warn(
                f"MLflow accepts 1 to {LENGTH} characters in the name of a {self.kind}: {shortened(name, 60)!r} is "
                f"recorded as {sanitized!r}."
            )
        self._sanitized[key], self._owners[sanitized] = sanitized, shortened(name, 60)
        if sanitized != name:
            self.changed[sanitized] = [str(part) for part in key]
            self._on_change()
        return sanitized

    def take(self, there: Iterable[str], chosen: Mapping[str, Sequence[str]]) -> None:
        """Continue with the names of an existing run.

        Args:
            there: the names that the run has.
            chosen: its earlier `changed`.
        """
        self._taken = {name: name for name in there}
        for name, parts in chosen.items():
            self._sanitized[tuple(parts)], self.changed[name] = name, list(parts)
            self._taken[name] = shortened(".".join(parts), 60)


class RunNames:
    """The names of a run's metrics, params and tags.

    Which of two colliding names stays as it is depends on which comes first, so the run keeps the choice.
    """

    def __init__(self) -> None:
        self.on_new: Callable[[str], None] | None = None
        """Called with all that was chosen, as JSON, when a name had to be changed. Default: nothing."""
        self._metrics, self._params, self._tags = (Names(kind, self._note) for kind in ("metric", "param", "tag"))
        self._values: dict[str, str] = {}  # of params

    def metric(self, name: str) -> str:
        """The name to log a metric under."""
        return self._metrics.of(name)

    def tag(self, name: str) -> str:
        """The name to log a tag under."""
        return self._tags.of(name)

    def param(self, path: tuple[object, ...], text: str) -> str:
        """The name to log a param under; params with the same name and value share it.

        Args:
            path: the names that lead to it.
            text: its value.
        """
        sanitized = self._params.of(".".join(map(str, path)), path, lambda name: self._values.get(name) == text)
        self._values[sanitized] = text
        return sanitized

    def take(self, there: Mapping[str, Sequence[str]], chosen: str) -> None:
        """Continue with the names of a run.

        Args:
            there: the names that the run has, by kind.
            chosen: what `on_new` was called with for it; unreadable parts are ignored.
        """
        for names in (self._metrics, self._params, self._tags):
            names.take(there.get(names.kind, ()), _read(chosen, names.kind))

    def _note(self) -> None:
        changed = {names.kind: names.changed for names in (self._metrics, self._params, self._tags) if names.changed}
        if self.on_new is not None:
            self.on_new(json.dumps(changed, ensure_ascii=False))


def _read(text: str, kind: str) -> dict[str, list[str]]:
    try:
        chosen = json.loads(text)[kind]
        return {str(sanitized): [str(part) for part in parts] for sanitized, parts in chosen.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _spelled_out(path: tuple[object, ...]) -> str:
    """A name with the names that lead to it, for a message."""
    return shortened(" in ".join(map(repr, reversed(path))), 90)
