"""The embedded prior and its benchmark: icons, networks, training, export, measurement."""
