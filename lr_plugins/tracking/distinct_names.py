"""Names of one kind that stay different where MLflow takes none of them as they are."""

from __future__ import annotations

from lr_plugins._lightning import rank_zero_warn
from lr_plugins.errors import shortened
from lr_plugins.tracking.names import LENGTH, marked, sanitize_name


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
            found = marked(found, name)
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
