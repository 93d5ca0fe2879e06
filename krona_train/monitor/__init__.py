"""What is looked at from time to time, and never changes the training."""
