"""From a file's bytes to the model, and changed numbers back into its text."""
