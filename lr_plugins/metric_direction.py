"""Whether a metric is better when higher or lower, and Keras' rule of improvement.

Schedules, callbacks, summaries, comparisons and checkpoints share one rule.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

Mode = Literal["auto", "min", "max"]
"""Which direction is better; `"auto"` infers it from the metric's name."""

_LOWER = re.compile(
    r".*loss|.*losses|.*errors?|err\d*|perplexity|ppl|mse|msle|rmse|rmsle|mae|mape|smape|nll|bce|ce|crossentropy|wer|cer|"
    "fid|lpips|brier|bouldin|ece|divergence|kl|distance|regret|cost|deviance"
)
_HIGHER = re.compile(
    r"acc\d*|.*accuracy|top\d+|topk|.*auc|auprc|.*auroc|ap\d*|m?ap\d*|f\d|f\d?score|f(?:beta|measure)|mcc|.*precision|"
    r".*recall|sensitivity|specificity|r2|m?iou|jaccard|dice|psnr|ssim|bleu\d*|rouge\w?|meteor|cider|rewards?|"
    "returns?|ndcg|mrr|hits?|kappa|.*correlation|pearson|spearman|match|elbo|likelihood|explained|tpr|tnr|success|snr|sdr"
)
_SCORE = re.compile(r".*score")  # counts only if no other word is known
_PARTS = re.compile(r"[\W_]+")
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def better(metric: str) -> Literal["min", "max"] | None:
    """Whether lower or higher values of a metric are better, judging by its name; None if the name does not say.

    The last known word decides: `val_f1_loss` is a loss.

    Args:
        metric: its name.

    Example:
        >>> better("val_loss"), better("val_f1"), better("valid/MulticlassAccuracy"), better("val_f1_loss")
        ('min', 'max', 'max', 'min')
        >>> better("val_accumulated") is None
        True
    """
    words = [part for part in _PARTS.split(metric) if part]
    words = [word.lower() for part in words for word in (*_HUMPS.split(part), part)]
    for word in reversed(words):
        if _LOWER.fullmatch(word):
            return "min"
        if _HIGHER.fullmatch(word):
            return "max"
    return "max" if any(map(_SCORE.fullmatch, words)) else None


def higher_is_better(metric: str) -> bool:
    """Whether higher values of a metric are better; if its name does not say, lower values are."""
    return better(metric) == "max"


def better_in_keras2(metric: str) -> Literal["min", "max"]:
    """Whether lower or higher values are better in Keras 2, which only looks for `acc` in the name.

    Example:
        >>> better_in_keras2("val_acc"), better_in_keras2("val_f1")
        ('max', 'min')
    """
    return "max" if "acc" in metric else "min"


def improves(value: float, best: float, sign: int, min_delta: float, *, in_float32: bool = False) -> bool:
    """Keras' rule of improvement: `value + min_delta < best`, or `value - min_delta > best` where higher is better.

    Args:
        value: the new value. NaN never improves.
        best: the value to improve on.
        sign: 1 where lower values are better, -1 where higher values are.
        min_delta: by how much the value must be better.
        in_float32: compare in single precision, as Keras 3 does. Default False.

    Source: keras.callbacks.EarlyStopping (Keras 2.2.4 and 3); keras.callbacks.ReduceLROnPlateau (Keras 3).

    Example:
        >>> improves(0.9, 1.0, sign=1, min_delta=0.05), improves(0.9, 1.0, sign=-1, min_delta=0.05)
        (True, False)
        >>> improves(1.0, 1.0 + 1e-9, sign=1, min_delta=0.0), improves(1.0, 1.0 + 1e-9, 1, 0.0, in_float32=True)
        (True, False)
    """
    moved, bar = sign * value + min_delta, sign * best
    if not in_float32:
        return moved < bar
    with np.errstate(over="ignore"):
        return bool(np.float32(moved) < np.float32(bar))
