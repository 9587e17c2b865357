"""What nerfstudio's viewer shows beside its own controls; pausing is among those."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from nerfstudio.viewer.viewer_elements import ViewerElement, ViewerText


class PromptField(ViewerText):
    """A prompt that may be changed while a run goes; while it is empty, being typed, the last one holds."""

    def __init__(self, name: str, prompt: str) -> None:
        super().__init__(name, prompt)
        self._last = prompt

    @property
    def prompt(self) -> str:
        """The current one."""
        if self.value.strip():
            self._last = self.value
        return self._last


class ComparisonView(ViewerElement[str]):
    """An image in the viewer: a view's source and its edit."""

    gui_handle: Any

    def __init__(self) -> None:
        super().__init__("Source and edit")

    @property
    def installed(self) -> bool:
        """Whether a viewer is there to show it."""
        return self.gui_handle is not None

    def _create_gui_handle(self, viser_server: Any) -> None:
        self.gui_handle = viser_server.gui.add_markdown("", image_root=Path())

    def install(self, viser_server: Any) -> None:
        self._create_gui_handle(viser_server)

    def show(self, image: bytes) -> None:
        """Show a PNG, if there is a viewer."""
        if self.installed:
            self.gui_handle.content = f"![{self.name}](data:image/png;base64,{base64.b64encode(image).decode()})"


def hide(control: ViewerElement[Any]) -> None:
    """Show a control no more; it keeps its value."""
    control.visible = False
    if control.gui_handle is not None:  # the viewer is there already
        control.set_hidden(True)
