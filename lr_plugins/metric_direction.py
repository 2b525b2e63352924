"""Whether a metric is better when higher or lower: one rule for schedules, summaries, comparisons and checkpoints."""

from __future__ import annotations

import re
from typing import Literal

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
