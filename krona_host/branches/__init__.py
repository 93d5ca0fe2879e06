"""Parallel branches on the host's models: where they stand, and what they attend to while a picture is sampled."""
