"""What a stranger might add, each in a file of its own."""
