"""Keras' console output from any Lightning training."""
