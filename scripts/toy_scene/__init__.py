"""Small scenes whose surface is known, for trying edits of NeRFs and splats."""
