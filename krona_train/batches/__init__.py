"""From encoded pictures to the batches of each step."""
