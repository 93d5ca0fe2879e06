"""The one exception of the set-up."""


class HostError(Exception):
    """ComfyUI could not be found or set up. The text says what was found, what was expected and what to do."""
