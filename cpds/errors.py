"""The errors that the command line turns into a sentence and exit code 2."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message names the value and the remedy."""


class MissingExtra(InputError, ImportError):
    """An optional library is not installed; the message says how to install it."""
