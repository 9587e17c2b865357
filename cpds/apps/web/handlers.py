"""What happens at each event of the page: its widgets' values go to the desk, the desk's answers to its widgets."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from cpds.apps.web.desk import Desk, Status, Wish, take_sample
from cpds.apps.web.edits import BEFORE, TURNING, Run, files_of, keep_sheet
from cpds.apps.web.form import lines_of
from cpds.apps.web.layout import PROMPTS, Tab
from cpds.apps.web.masks import canvas, painted_mask
from cpds.apps.web.previews import scene_preview, svg_preview
from cpds.apps.web.visitors import COOKIE, Visitor
from cpds.errors import InputError
from cpds.presets import PRESETS


def handled(desk: Desk, handler: Callable[..., Any], *, picked: bool = False) -> Callable[..., Any]:
    """A handler (visitor, page, ...) as Gradio calls it; its InputErrors are shown on the page.

    `picked`: it is also given which of several things was clicked.
    """
    import gradio as gr

    def call(request: gr.Request, *given: Any) -> Any:
        visitor = desk.visitors.of(request.cookies.get(COOKIE, ""))
        try:
            return handler(visitor, f"{visitor.folder.name} {request.session_hash}", *given)
        except InputError as err:
            raise gr.Error(
                escape(visitor.without_places(str(err))), print_exception=False, title="This cannot be done"
            ) from err

    def plain(request: gr.Request, *given: Any) -> Any:
        return call(request, *given)

    def picking(request: gr.Request, event: gr.SelectData, *given: Any) -> Any:
        return call(request, event.index, *given)

    return picking if picked else plain


class Handlers:
    """The events of one tab."""

    def __init__(self, tab: Tab, desk: Desk) -> None:
        self.tab, self.desk, self.command = tab, desk, tab.command

    def begin(self, visitor: Visitor, page: str, data: dict[Any, Any]) -> list[Any]:
        """Start was pressed."""
        tab, source = self.tab, data[self.tab.source]
        settings = {name: data[widget] for name, widget in tab.fields.items()}
        own = {name: data[widget] for name, widget in tab.own.items()}
        typed = lines_of(own["other"] or "")
        files = {name: data[widget] for name, widget in tab.files.items()}
        if tab.mask is not None and source:
            mask = painted_mask(data[tab.mask], visitor.require_own(source), visitor)
            files |= {"mask": None if mask is None else str(mask)}
        wish = Wish(
            self.command,
            source,
            own["prompt"] or "",
            own["target_prompt"] or "",
            {**settings, **typed},
            files,
            float(own["strength"] or 1),
            int(own["variants"] or 1),
        )
        self.desk.begin(visitor, page, wish)
        return self.look(visitor, page)

    def resume(self, visitor: Visitor, page: str, chosen: str) -> list[Any]:
        """A stopped run is to go on."""
        self.desk.resume(visitor, page, chosen)
        return self.look(visitor, page)

    def stop(self, visitor: Visitor, page: str) -> Any:
        import gradio as gr

        self.desk.stop(page, self.command)
        return gr.update(interactive=False)

    def look(self, visitor: Visitor, page: str) -> list[Any]:
        """Timer, start, stop, and all of the result: as the edits of the page stand."""
        import gradio as gr

        status = self.desk.status(page, self.command)
        if status.trouble and status.ended:
            gr.Warning(escape(status.trouble), title="An edit failed")
        controls = [
            gr.Timer(active=not status.ended),
            gr.update(interactive=status.ended),
            gr.update(interactive=not status.ended),
        ]
        preview = gr.update(value=status.preview and str(status.preview), visible=not status.ended or not status.runs)
        if not status.ended:
            return [*controls, status_html(status), preview, *[gr.skip()] * (len(self.tab.result) - 2)]
        made = self.made(status.runs)
        return [*controls, status_html(status), preview, *made, self.history(visitor, page)]

    def made(self, runs: Sequence[Run]) -> list[Any]:
        """Slider, turning view, variants and files of runs that ended."""
        import gradio as gr

        ready = [run for run in runs if run.finished]
        if not ready:
            return [gr.update(visible=False)] * 4
        first, turning = ready[0], ready[0].folder / TURNING
        keep_sheet(ready)
        files = files_of(first)
        slider = (str(first.folder / BEFORE), str(first.image))
        several = [(str(run.image), f"seed {run.seed}") for run in ready] if len(ready) > 1 else None
        return [
            gr.update(value=slider, visible=True),
            gr.update(value=str(turning) if turning.is_file() else None, visible=turning.is_file()),
            gr.update(value=several, visible=several is not None),
            gr.update(value=[str(file) for file in files], visible=True),
        ]

    def arrive(self, visitor: Visitor, page: str) -> Any:
        """The page was opened."""
        self.desk.arrive(visitor, page)
        return self.history(visitor, page)

    def history(self, visitor: Visitor, page: str) -> Any:
        """The visitor's runs as a gallery."""
        import gradio as gr

        runs = self.desk.history(visitor, self.command)
        return gr.update(value=[(str(run.image), run.title) for run in runs])

    def choose(self, visitor: Visitor, page: str, index: int) -> list[Any]:
        """A run of the gallery was clicked: its name, what can be done with it, and its result."""
        import gradio as gr

        runs = self.desk.history(visitor, self.command)
        if index >= len(runs):
            raise InputError("that run is not here any more: reload the page")
        run = runs[index]
        text = status_html(Status(run.title, run.step / max(1, run.steps), None, True, []))
        name = run.folder.name
        controls = [gr.update(interactive=not run.finished), gr.update(interactive=True)]
        preview = gr.update(value=str(run.image), visible=not run.finished)
        return [name, *controls, text, preview, *self.made([run]), gr.skip()]

    def remove(self, visitor: Visitor, page: str, chosen: str) -> list[Any]:
        """A run of the gallery is to go."""
        import gradio as gr

        self.desk.remove(visitor, chosen)
        off = gr.update(interactive=False)
        return [self.history(visitor, page), off, off]

    def preset(self, visitor: Visitor, page: str, name: str) -> int:
        """Steps as the preset has them."""
        return min(PRESETS[name].num_inference_steps, self.desk.limits.max_steps)

    def sample(self, visitor: Visitor, page: str) -> list[Any]:
        """The sample was asked for: its files and prompts."""
        return [*map(str, take_sample(visitor, self.command)), *PROMPTS]

    def canvas(self, visitor: Visitor, page: str, source: str | None) -> Any:
        """The image to paint a mask on."""
        if not source:
            return None
        return {"background": str(canvas(visitor.require_own(source), visitor)), "layers": [], "composite": None}

    def describe(self, visitor: Visitor, page: str, data: dict[Any, Any]) -> list[Any]:
        """What an SVG or a scene looks like, and what of it will change."""
        tab, spec = self.tab, self.desk.workers.priors[0]
        given = {name: data[widget] for name, widget in tab.files.items() if data[widget]}
        files = {name: visitor.require_own(path) for name, path in given.items()}
        if not data[tab.source] or (self.command == "splats" and "cameras" not in files):
            return [None, ""]
        source = visitor.require_own(data[tab.source])
        if self.command == "svg":
            settings = {name: data[widget] for name, widget in tab.fields.items()}
            image, lines = svg_preview(source, settings, spec)
            place = visitor.place("page.png")
        else:
            image, lines = scene_preview(source, files, spec)
            place = visitor.place("turning.gif")
        place.write_bytes(image)
        return [str(place), "\n".join(f"- {escape(line)}" for line in lines)]


def status_html(status: Status) -> str:
    """A bar and a line."""
    text = escape(status.text or "Nothing is being edited.")
    return f'<progress max="1" value="{status.fraction:.3f}"></progress><div role="status">{text}</div>'
