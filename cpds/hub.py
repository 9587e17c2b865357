"""Whether the network has something, asked without waiting for long."""

import os
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from cpds.errors import InputError

PATIENCE = 10.0  # s
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")  # files that can run any program when they are read
T = TypeVar("T")


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What `ask` returns or raises; TimeoutError where that takes longer.

    Time limits of sockets hold for each address and not for looking up names: this one is for all of it. A call that is
    late is left behind in a thread that does not keep the process alive.
    """
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as err:  # handed to whoever waits
            answer.set_exception(err)

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer.done():
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answer.result()


def reason(err: BaseException) -> str:
    """An error's first line, or its kind where it says nothing."""
    text = str(getattr(err, "reason", None) or err).strip()
    return text.splitlines()[0] if text else type(err).__name__


def only_cached(name: str, file: str, what: str) -> bool:
    """Whether the hub's model `name` must come from its cache on this machine, because the hub cannot give it.

    `file` is one that such a model always has, `what` the thing's name in a message. InputError where neither has it.
    """
    from huggingface_hub import auth_check, model_info, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if os.path.isfile(name):
        raise InputError(f"{what} is a file: give a local folder or a name on the Hugging Face hub (owner/model)")
    try:
        if within(PATIENCE, lambda: model_info(name, timeout=PATIENCE)).gated:
            within(PATIENCE, lambda: auth_check(name))  # anybody may see that there is such a model
    except HFValidationError as err:
        raise InputError(
            f"{what} is neither a local folder nor a name as the Hugging Face hub has them (owner/model): "
            "check the spelling"
        ) from err
    except Exception as err:  # of one of three HTTP libraries, by the hub's version
        if isinstance(try_to_load_from_cache(name, file), str):
            return True
        if isinstance(err, GatedRepoError):
            raise InputError(
                f"{what} is gated: accept its licence on its page at the Hugging Face hub, then log in (hf auth login)"
            ) from err
        if isinstance(err, RepositoryNotFoundError):
            raise InputError(
                f"{what} is no local folder, and the Hugging Face hub shows you no such model: check the spelling, "
                "or log in (hf auth login) if it is private"
            ) from err
        raise InputError(
            f"{what} is no local folder and not in the Hugging Face cache, and the hub cannot be reached "
            f"({reason(err)}): check the spelling and the connection, or give a local folder"
        ) from err
    return False
