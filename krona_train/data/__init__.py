"""From pictures and captions, of a folder or of a graph, to the encoded items that a training draws from."""
