"""Editing inside nerfstudio: methods for `ns-train`, whose results all of nerfstudio's own commands take."""
