"""Updates beside the layers of a model that is in use: attached without a trace, and seen to be reached."""
