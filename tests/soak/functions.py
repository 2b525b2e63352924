"""Schedule functions for the soak runs."""


def decay(epoch, lr):
    """Each value follows from the one before: a step that is taken twice, or left out, shows."""
    return lr * (0.9 if epoch % 3 else 0.97)
