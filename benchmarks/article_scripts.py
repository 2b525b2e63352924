"""Do the Iris article's two scripts, ported to `lr_plugins.keras`, end as the scripts end in Keras?

The scripts are those of docs/articles.md, section 1.6, unchanged except for the seed: they run with N seeds. The shares
of their outcomes are compared with the bands of `benchmarks/recipes.py`.

    python benchmarks/article_scripts.py
    python benchmarks/article_scripts.py --seeds 10

Exit status: 0, or 1 when a share lies outside its band.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from recipes import ENDINGS, ROOT, SOURCE, Outcome, digest, row, workers

PAGE = ROOT / "docs/articles.md"
# The scripts by the recipe whose bands they are held against, in the order of the page.
RECIPES = ("iris_inverse_time", "iris_exponential")


def scripts() -> dict[str, str]:
    """The text of each script."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return dict(zip(RECIPES, (block for block in blocks if "KerasClassifier(" in block), strict=True))


def run_one(recipe: str, seed: int, epochs: int | None) -> Outcome:
    """Run a script with another seed, and maybe another number of epochs."""
    text, count = re.subn(r"^seed = \d+$", f"seed = {seed}", scripts()[recipe], flags=re.MULTILINE)
    assert count == 1, f"{recipe} does not set its seed"
    if epochs is not None:
        text, count = re.subn(r"\bepochs=\d+", f"epochs={epochs}", text)
        assert count == 1, f"{recipe} does not set its epochs"
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text, recipe, "exec"), names)
    model = names["model"]
    loss, accuracy = model.history_["loss"][-1], model.history_["acc"][-1]
    weights = digest(list(model.model_.parameters()))
    return Outcome(recipe, seed, loss if math.isfinite(loss) else math.inf, accuracy, weights, "", "", math.nan)


def run_all(pool: ProcessPoolExecutor, recipe: str, seeds: Sequence[int], epochs: int | None) -> list[Outcome]:
    """Run a script with every seed, and make sure that the seeds matter."""
    outcomes = list(pool.map(run_one, [recipe] * len(seeds), seeds, [epochs] * len(seeds)))
    if len({outcome.weights for outcome in outcomes}) < len(seeds):
        sys.exit(f"{recipe}: two seeds end with the same weights")
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="how many, from --first-seed on (default 100)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="train shorter than the scripts do: then there are no bands")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    start, all_fit = time.perf_counter(), True
    print(f"{len(seeds)} seeds. In brackets: 99 % bands of the counts, from {SOURCE}.\n")
    print(f"| script | loss p10 / p50 / p90 | acc mean | {' | '.join(ENDINGS)} | frozen / other | in the bands |")
    print("|---|---|---|" + "---|" * (len(ENDINGS) + 2), flush=True)
    with workers(options.processes) as pool:
        for recipe in RECIPES:
            outcomes = run_all(pool, recipe, seeds, options.epochs)
            line, fits = row(recipe, outcomes, has_bands=options.epochs is None)
            print(line, flush=True)
            all_fit = all_fit and fits
    print(f"\n{time.perf_counter() - start:.0f} s")
    return 0 if all_fit else 1


if __name__ == "__main__":
    sys.exit(main())
