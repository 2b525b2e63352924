"""Losses that torch does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lr_plugins import validation

EPSILON = 1e-7  # keras.backend.epsilon()


class KerasCategoricalCrossentropy(nn.Module):
    r"""Cross-entropy as Keras computes it behind a softmax layer: the probability is clipped before the log.

    loss = mean over samples of -log(clip(softmax(logits)[target], 1e-7, 1 - 1e-7))

    It differs from `torch.nn.CrossEntropyLoss` only in the tails, but there in kind: a sample whose probability is
    clipped has a loss of at most 16.118 and *no gradient*, so it no longer changes the network.

    Args:
        from_logits: True (default) for a network that ends before the softmax, False for one that ends with it. The two
            give the same result; Keras' own `from_logits=True` does not clip.

    Raises:
        InvalidArgumentError: `from_logits` is neither True nor False.

    Source: keras.losses.CategoricalCrossentropy.

    Example:
        >>> import torch
        >>> loss = KerasCategoricalCrossentropy()
        >>> logits = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
        >>> value = loss(logits, torch.tensor([1]))
        >>> value.backward()
        >>> round(value.item(), 3), logits.grad.abs().max().item()
        (16.118, 0.0)
        >>> of_probabilities = KerasCategoricalCrossentropy(from_logits=False)
        >>> round(of_probabilities(logits.softmax(dim=-1), torch.tensor([1])).item(), 3)
        16.118
    """

    def __init__(self, from_logits: bool = True) -> None:
        super().__init__()
        self.from_logits = validation.flag("KerasCategoricalCrossentropy.from_logits", from_logits)

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a batch.

        Args:
            outputs: float tensor (samples, classes): logits, or probabilities where `from_logits` is False.
            target: int64 tensor (samples,), each the index of the right class.
        """
        if outputs.dtype in (torch.float16, torch.bfloat16):
            outputs = outputs.float()  # 1 - 1e-7 is 1 in half precision: nothing would be clipped above
        probability = outputs.softmax(dim=-1) if self.from_logits else outputs
        # Keras divides by the sum, which is 1 up to rounding; without it the last bits differ.
        probability = probability / probability.sum(dim=-1, keepdim=True)
        return functional.nll_loss(probability.clip(EPSILON, 1.0 - EPSILON).log(), target)
