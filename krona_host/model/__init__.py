"""What kind of model ComfyUI has loaded, and what it is made of."""
