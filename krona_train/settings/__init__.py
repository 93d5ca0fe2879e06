"""Groups of settings, and how settings are written, read and typed in."""
