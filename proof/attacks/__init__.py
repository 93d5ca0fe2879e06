"""Requests from whoever reaches the server."""
