"""Vector graphics; import the submodules by name."""
