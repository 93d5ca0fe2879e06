"""Everything that touches the host: its models, folders, sockets and progress bars."""
