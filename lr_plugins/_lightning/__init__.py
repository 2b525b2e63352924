"""Everything private or version-dependent that is taken from a Trainer, in one place."""
