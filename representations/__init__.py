"""What can be edited with nothing but torch; import the submodules by name."""
