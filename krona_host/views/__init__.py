"""Views of one thing as conditions: MV-Adapter's condition encoder in the host's UNets."""
