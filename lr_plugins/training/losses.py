"""Losses that torch does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-7  # keras.backend.epsilon()


class KerasCategoricalCrossentropy(nn.Module):
    r"""Cross-entropy as Keras computes it behind a softmax layer: the probability is clipped before the log.

    loss = mean over samples of -log(clip(softmax(logits)[target], 1e-7, 1 - 1e-7))

    Against `torch.nn.CrossEntropyLoss` only the tails differ, but there they differ in kind: a sample that
    is wrong beyond the clip costs at most 16.118 and *has no gradient*, so it no longer moves the network.

    Example:
        >>> import torch
        >>> loss = KerasCategoricalCrossentropy()
        >>> logits = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
        >>> value = loss(logits, torch.tensor([1]))
        >>> value.backward()
        >>> round(value.item(), 3), logits.grad.abs().max().item()
        (16.118, 0.0)
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a batch.

        Args:
            logits: float tensor (samples, classes), before the softmax.
            target: int64 tensor (samples,), each the index of the right class.
        """
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()  # 1 - 1e-7 is 1 in half precision: nothing would be clipped above
        probability = logits.softmax(dim=-1)
        # Dividing by a sum that is 1 but for rounding is what Keras does; without it the last bits differ.
        probability = probability / probability.sum(dim=-1, keepdim=True)
        return functional.nll_loss(probability.clip(EPSILON, 1.0 - EPSILON).log(), target)
