"""From the layers that a file names to the weights of a model, and back."""
