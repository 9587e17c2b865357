"""Say in one sentence why CUDA cannot be used here, if so, and end with 2.

    python scripts/cuda_device.py

Only the standard library is needed, so that `make gpu` asks before it installs anything; where torch is installed, it
is asked as well.
"""

import ctypes
import sys
from importlib.util import find_spec

DRIVERS = ("libcuda.so.1", "nvcuda.dll")
TOY = "python -m benchmarks.gpu --device cpu --toy --minutes 2 --out gpu-toy.md"
CARD = "run this on a machine with an NVIDIA card and its driver"


def driver_problem() -> str | None:
    """What the NVIDIA driver lacks, and the remedy; None where it has a card."""
    for name in DRIVERS:
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int()
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value:
            return None
        return f"the NVIDIA driver has no card to offer: {CARD}, and see that CUDA_VISIBLE_DEVICES does not hide it"
    return f"there is no NVIDIA driver, {DRIVERS[0]} cannot be loaded: {CARD}"


def torch_problem() -> str | None:
    """Why the torch that is installed, if one is, cannot use the card."""
    if find_spec("torch") is None:
        return None
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: install a build that has it"
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} cannot use the card, most often because the driver is older than CUDA "
            f"{torch.version.cuda} needs: update the driver, or install torch for the CUDA that nvidia-smi names"
        )
    return None


def problem() -> str | None:
    """The sentence; None where CUDA can be used."""
    found = driver_problem() or torch_problem()
    return found and f"no CUDA device can be used here: {found}; or run the same code at toy sizes, {TOY}"


if __name__ == "__main__":
    if sentence := problem():
        print(f"make gpu: {sentence}", file=sys.stderr)
        sys.exit(2)
