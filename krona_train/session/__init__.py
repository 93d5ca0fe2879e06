"""A whole training, assembled for a node or the command line."""
