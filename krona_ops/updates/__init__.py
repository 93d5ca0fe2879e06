"""Updates of layers as values, and adapters, which are many of them."""
