"""Updates in a model: as patches of ComfyUI's, beside layers, over a schedule."""
