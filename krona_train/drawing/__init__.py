"""Pictures of a training for people to look at: curves of losses, film strips, sheets of pictures with captions."""
