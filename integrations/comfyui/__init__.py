"""CPDS for ComfyUI: images and SVGs edited by prompt."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
