"""Whatever becomes of a node, the models and the process are as it found them."""
