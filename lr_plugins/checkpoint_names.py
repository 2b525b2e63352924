"""The names of the checkpoints that `LastCheckpoint` keeps and that a run resumes from."""

from __future__ import annotations

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
