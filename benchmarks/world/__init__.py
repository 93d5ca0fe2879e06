"""A small world in which quality can be measured: characters in scenes, captions in a fixed grammar,
judges that can tell."""
