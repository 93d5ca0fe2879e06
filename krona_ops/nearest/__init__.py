"""The nearest update of another form, without forming the update itself."""
