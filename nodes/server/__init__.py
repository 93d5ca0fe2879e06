"""What the nodes need of ComfyUI's server: its folders, progress, pages and routes."""
