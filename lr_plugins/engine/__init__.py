"""Writes and records the learning rate of each optimizer step. Depends on torch, not on Lightning."""
