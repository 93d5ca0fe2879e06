"""ComfyUI as a library, for the trainer: models, encoders, samplers."""
