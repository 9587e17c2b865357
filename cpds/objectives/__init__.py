"""Objectives: edit directions in latent space, pure functions of one noised pair and the network's predictions.

An objective states what it needs beside its formula; Guidance computes that and nothing else. One of your own is an
`Objective` object, passed to `edit` or named by its import path: docs/extending.md.
"""
