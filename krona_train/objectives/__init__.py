"""What a training minimises: one module each, ``(backbone, batch, draw) -> loss per sample (B,)``."""
