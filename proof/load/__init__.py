"""A server that works for a long time."""
