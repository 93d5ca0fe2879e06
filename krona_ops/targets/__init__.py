"""Which layers are adapted, with which factors."""
