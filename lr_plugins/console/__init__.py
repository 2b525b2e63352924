"""What Keras writes on a console, as text, and the line that it is written to."""
