"""The host side: thin nodes over `krona_ops` and `krona_train`."""
