"""Models to train on: the protocol, a tiny one for tests and experiments, and whatever ComfyUI loads."""
