"""Scenes of 3D gaussians; import the submodules by name."""
