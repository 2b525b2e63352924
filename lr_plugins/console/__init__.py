"""Keras' console output as text, and the console line that it is written to."""
