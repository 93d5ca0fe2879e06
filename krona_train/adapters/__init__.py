"""What moves in a training: layers, their factors, the optimizer, the average; and where they begin."""
