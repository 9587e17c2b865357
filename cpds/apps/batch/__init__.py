"""Thousands of edits from one manifest: validated whole, done by several workers, resumed where they ended."""
