"""Interrupted trainings, ours beside Lightning's schedulers: `python -m tests.lifecycle.matrix docs`.

A case is a kind of schedule, a way of training (optimizers, accumulation) and a side: ours, or a torch scheduler that
`configure_optimizers` returns. Each case is trained and interrupted in every way of `INTERRUPTIONS`. The learning rates
that the optimizers' steps really used, and the weights at the end, are compared with those of `plan`: a training loop
of a few lines, without Lightning, which is never interrupted.
"""
