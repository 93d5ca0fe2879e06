"""One step: its gradients, in whatever memory there is, and what it tells."""
