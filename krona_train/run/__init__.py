"""A training as a folder: its job, what happens in it, its states and its result."""
