"""Time of `lr-plugins preview`, as a whole process: from the call to the last line.

Each command runs once per round, in an order that rotates from round to round. The table has the median and the range
of the wall-clock time, and the median of the processor time, which other work on the machine disturbs less. The first
round does not count. `python -c pass` and `import numpy` are lower bounds.

    python benchmarks/preview.py
    python benchmarks/preview.py --rounds 30
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = str(Path(tempfile.gettempdir()) / "lr_plugins_preview.png")
PREVIEW = ["-m", "lr_plugins", "preview"]
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "warm-up, cosine: 450 steps": [*PREVIEW, "schedule=warmup_cosine", "trainer.max_epochs=10"],
    "inverse time: 100,000 steps": [*PREVIEW, "schedule=inverse_time", "--steps-per-epoch=10000"],
    "cosine: 45 billion steps": [*PREVIEW, "schedule=cosine", "trainer.max_epochs=1000000000"],
    "loss driven: 1000 epochs": [*PREVIEW, "schedule=loss_driven", "trainer.max_epochs=1000", "--metric", "loss=2:0.1"],
    "four schedules in one chart": [*PREVIEW, "-m", "schedule=step_decay,piecewise,inverse_time,cosine"],
    "warm-up, cosine, with a picture": [*PREVIEW, "schedule=warmup_cosine", "--png", PICTURE],
}


def seconds(words: list[str]) -> tuple[float, float]:
    """Of the clock, and of the processor."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begin, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    names = list(COMMANDS)
    for turn in range(options.rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken[name].append(seconds(COMMANDS[name]))
    print(f"| command | median of {options.rounds}, s | range, s | processor, s |")
    print("|---|---|---|---|")
    for name, mine in taken.items():
        wall, processor = zip(*mine[1:], strict=True)
        spread = f"{min(wall):.2f} to {max(wall):.2f}"
        print(f"| {name} | {statistics.median(wall):.2f} | {spread} | {statistics.median(processor):.2f} |")


if __name__ == "__main__":
    main()
