"""The two generations of Keras whose words we print, and what each calls the learning rate."""

from __future__ import annotations

LEARNING_RATE_NAMES = {"keras2": "lr", "keras3": "learning_rate"}

STYLES = tuple(LEARNING_RATE_NAMES)
"""`"keras2"` is Keras 2.2.4, `"keras3"` Keras 3."""
