"""Train a model under a learning-rate schedule. `python train.py --help` shows what can be set."""

from __future__ import annotations

import sys
from pathlib import Path

from lr_plugins.commands.train import main

if __name__ == "__main__":
    main(sys.argv[1:], "python train.py", Path(__file__).resolve().parent / "conf")
