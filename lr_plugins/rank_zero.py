"""Messages of one process among several: those of Lightning, without importing Lightning."""

import os

from lightning_utilities.core.rank_zero import rank_zero_info as rank_zero_info
from lightning_utilities.core.rank_zero import rank_zero_only as rank_zero_only
from lightning_utilities.core.rank_zero import rank_zero_warn as rank_zero_warn

__all__ = ["rank_zero_info", "rank_zero_only", "rank_zero_warn"]

if not hasattr(rank_zero_only, "rank"):  # Lightning sets it when it is imported; a plain loop never imports Lightning
    _ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # what Lightning reads, in its order
    _rank = next((int(os.environ[name]) for name in _ranks if name in os.environ), 0)
    rank_zero_only.rank = _rank  # type: ignore[attr-defined]
