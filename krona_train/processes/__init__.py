"""Many processes that train as one, and one of its own that is watched."""
