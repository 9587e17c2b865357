"""How a command of nerfstudio ends when the user can fix what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cpds.errors import EditDiverged, InputError, out_of_memory
from cpds.terminal import print_status

OUT_OF_MEMORY = (
    "out of memory: lower pipeline.resolution or, for nerfacto's scenes, pipeline.rays_per_chunk (when refining "
    "pipeline.datamanager.train_num_rays_per_batch); take the prior with pipeline.low_memory True or on another "
    "device (pipeline.guidance_device)"
)


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """InputError, EditDiverged or too little memory ends the command with one sentence and exit code 2."""
    try:
        yield
    except (InputError, MemoryError, RuntimeError) as err:
        full = out_of_memory(err)
        if not full and not isinstance(err, InputError | EditDiverged):
            raise
        print_status(f"ns-train: error: {OUT_OF_MEMORY if full else err}")
        raise SystemExit(2) from err
