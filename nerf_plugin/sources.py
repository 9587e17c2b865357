"""The scene as a run found it: pictures of it are made when first asked for, and kept in the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from cpds.errors import InputError
from cpds.images import open_image, png, to_pil
from cpds.types import Images
from nerf_plugin.checkpoints import open_run
from nerf_plugin.records import save


class BaseScene:
    """The weights that a run began with; `checkpoint` holds them for a run that goes on after it was interrupted."""

    def __init__(self, model: Any, checkpoint: Path, resumed: bool) -> None:
        self.model, self.checkpoint = model, checkpoint
        self._weights = None if resumed else {k: x.detach().cpu().clone() for k, x in self._edited().items()}

    def _edited(self) -> dict[str, Tensor]:
        return {k: x for k, x in self.model.named_parameters() if x.requires_grad}

    def weights(self) -> Mapping[str, Tensor]:
        """By name, on the CPU. Raises InputError where they are gone."""
        if self._weights is None:
            try:
                state = open_run(self.checkpoint.parent, int(self.checkpoint.stem.removeprefix("step-"))).state()
            except InputError as err:
                raise InputError(
                    f"the base scene's checkpoint {self.checkpoint} is gone, and the run needs views of it that were "
                    "not there yet when it was interrupted: put it back, or begin again"
                ) from err
            self._weights = {k: state["pipeline"][f"_model.{k}"] for k in self._edited()}
        return self._weights

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The model as it was, meanwhile."""
        base, now = self.weights(), {k: x.data for k, x in self._edited().items()}
        sampler = getattr(self.model, "proposal_sampler", None)
        anneal = getattr(sampler, "_anneal", 1.0)
        try:
            for k, x in self._edited().items():
                x.data = base[k].to(x.device)
            if sampler is not None:
                sampler.set_anneal(1.0)  # as when a scene is loaded; steps change it
            yield
        finally:
            for k, x in self._edited().items():
                x.data = now[k]
            if sampler is not None:
                sampler.set_anneal(anneal)

    def kept(self, file: Path, draw: Callable[[], Images]) -> Images:
        """The picture in `file`; where there is none yet, what `draw` makes of the scene as it was."""
        if not file.is_file():
            with self.shown():
                save(file, png(to_pil(draw())))
        return open_image(file)
