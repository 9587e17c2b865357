"""Scene editing inside nerfstudio; import the submodules by name."""
