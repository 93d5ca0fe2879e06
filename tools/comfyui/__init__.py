"""A real ComfyUI from outside: its server, a client for it, its editor in a browser,
and graphs in both of their forms."""
