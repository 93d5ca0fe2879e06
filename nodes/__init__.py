"""Thin nodes over `krona_ops`, `krona_host` and `krona_train`, and what they need of ComfyUI's server."""
