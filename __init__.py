"""Grounded-Dreamer for ComfyUI: registers the nodes and the web directory, nothing else."""

if __package__:  # ComfyUI imports this folder as a package; tools that merely come across the file import it as a lone module
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
