"""The composition roots: programs that put the method, its priors and what can be edited together."""
