"""Edits of a data set, and the metrics that they are measured with."""
