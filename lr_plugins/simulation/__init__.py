"""A run that has not begun: its plan, its preview, and what may be a mistake in it."""

from lr_plugins.simulation.lines import Event, Line
from lr_plugins.simulation.preview import Preview, plot_all, preview

__all__ = ["Event", "Line", "Preview", "plot_all", "preview"]
