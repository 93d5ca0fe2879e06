"""KronA: Kronecker adapters for ComfyUI. This file only tells the host where the nodes and the web files are."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called once by the host; nothing is imported before."""
    import sys
    from pathlib import Path

    root = str(Path(__file__).resolve().parent)
    if root not in sys.path:
        sys.path.append(root)  # appended: in front, the host's own `import nodes` would find ours

    from .nodes.supported import host_features, host_version, require_supported

    require_supported(host_version(), host_features())
    from .nodes.extension import KronaExtension

    return KronaExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
