"""What layers are called: by whom, in which kind of model, and where in it."""
