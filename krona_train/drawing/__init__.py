"""Pictures for people: curves, strips, sheets."""
