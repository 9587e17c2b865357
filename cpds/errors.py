"""The errors that the command line turns into a sentence and exit code 2, and what else may end an edit."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message names the value and the remedy."""


class MissingExtra(InputError, ImportError):
    """An optional library is not installed; the message says how to install it."""


class EditDiverged(RuntimeError):
    """NaN or infinite values appeared; what is edited holds the last good state."""


def out_of_memory(err: BaseException) -> bool:
    """Whether too little memory ended it, on any device: torch's CPU allocator raises a plain RuntimeError."""
    kinds = ("OutOfMemoryError", "MemoryError")  # the first is torch's, which is not imported here
    return type(err).__name__ in kinds or "allocate memory" in str(err)
