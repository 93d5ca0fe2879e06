"""ComfyUI as a library, without its server: its models, what it calls their layers, and updates in them."""
