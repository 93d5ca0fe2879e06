"""What the process itself does while it works: no unpickling, no code from files, no processes but the pack's own,
no connections outward."""
