"""The two generations of Keras whose output is reproduced, and what each calls the learning rate."""

from __future__ import annotations

from typing import Literal, get_args

Style = Literal["keras2", "keras3"]
"""`"keras2"` is Keras 2.2.4, `"keras3"` Keras 3."""

STYLES: tuple[Style, ...] = get_args(Style)

LEARNING_RATE_NAMES: dict[Style, str] = {"keras2": "lr", "keras3": "learning_rate"}
