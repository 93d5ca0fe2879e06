"""Processes that are killed at random moments of what they write."""
