"""Grounded-Dreamer (arXiv 2404.18065): grounded, compositional text to 3D with a pretrained multi-view diffusion model.

`gd_core` is the system. It never imports ComfyUI and is usable as a library and from the command line
(`python -m gd_core --help`).
"""

__version__ = "0.1.0"
