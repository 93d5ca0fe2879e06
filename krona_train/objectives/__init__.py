"""What a training minimises: a file for each kind, with its settings, and a line in `krona_train.objectives.kinds`."""
