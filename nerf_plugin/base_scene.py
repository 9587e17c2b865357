"""The scene as a run found it: images of it are rendered when first needed, and kept in the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from cpds.errors import InputError
from cpds.images import open_image, png, to_pil
from cpds.types import Images
from nerf_plugin.checkpoints import open_run
from nerf_plugin.outputs import save
from nerf_plugin.rendering import SceneRenderer


class BaseScene:
    """The weights that a run began with; `checkpoint` holds them for a run that goes on after it was interrupted."""

    def __init__(self, renderer: SceneRenderer, checkpoint: Path, resumed: bool) -> None:
        self.renderer, self.checkpoint = renderer, checkpoint
        self._weights = None if resumed else {k: x.detach().cpu().clone() for k, x in self._edited().items()}

    def _edited(self) -> dict[str, Tensor]:
        return {k: x for k, x in self.renderer.model.named_parameters() if x.requires_grad}

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
    def restored(self) -> Iterator[None]:
        """The model as it was, meanwhile."""
        base, now = self.weights(), {k: x.data for k, x in self._edited().items()}
        try:
            for k, x in self._edited().items():
                x.data = base[k].to(x.device)
            with self.renderer.loaded_sampling():
                yield
        finally:
            for k, x in self._edited().items():
                x.data = now[k]

    def image(self, file: Path, render: Callable[[], Images]) -> Images:
        """What `file` holds; where there is none yet, what `render` makes of the scene as it was."""
        if not file.is_file():
            with self.restored():
                save(file, png(to_pil(render())))
        return open_image(file)
