"""Diffusion priors: what one must offer (base), how one is loaded (load), and the families."""
