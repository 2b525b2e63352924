"""What the tests of train.py share."""


def without_advice(text: str) -> str:
    """What a run has said aside, without the rule of thumb for learning rates."""
    return "".join(line for line in text.splitlines(keepends=True) if "as a rule of thumb" not in line)
