"""Found by Hydra itself, which looks into the namespace package `hydra_plugins` (so there is no `__init__.py` here)."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class LearningRateGroups(SearchPathPlugin):  # type: ignore[misc]
    """Offers the groups of `lr_plugins/conf` to every Hydra app, after those of the app, which come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the package at the end."""
        search_path.append(provider="lr_plugins", path="pkg://lr_plugins.conf")
