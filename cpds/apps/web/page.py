"""The page itself, in Gradio: what stands where, and which event asks the desk for what."""

from typing import Any

from cpds.apps.web.desk import Desk, Status
from cpds.apps.web.handlers import Handlers, handled, status_html
from cpds.apps.web.layout import AS_PRESET, CSS, NAMES, PRIVACY, PROMPTS, STRENGTH, TICK, TITLE, Tab
from cpds.config import SelectorName
from cpds.presets import PRESETS, PRESETS_FOR


def mounted(desk: Desk) -> Any:
    """The page as an ASGI application: fonts of the reader's system, nothing told to anybody."""
    import gradio as gr
    from fastapi import FastAPI

    gr.set_static_paths([desk.visitors.root])  # files are shown from where they lie; the gate knows whose they are
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    page = build(desk)
    return gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        footer_links=[],
        run_history=False,
        max_file_size=desk.limits.upload_bytes,
        ssr_mode=False,
        pwa=False,
        theme=theme,
        css=CSS,
    )


def build(desk: Desk) -> Any:
    """The page, as Gradio's Blocks."""
    import gradio as gr

    with gr.Blocks(title="CPDS", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(TITLE)
        with gr.Tabs():
            for command, name in NAMES.items():
                with gr.Tab(name, id=command):
                    tab = Tab(command)
                    with gr.Row(equal_height=False):
                        with gr.Column(scale=5, min_width=340):
                            sources(tab)
                            form(tab, desk)
                        with gr.Column(scale=6, min_width=340):
                            results(tab)
                    wire(blocks, tab, desk)
        gr.Markdown(PRIVACY.format(hours=desk.limits.keep_hours))
        blocks.unload(handled(desk, desk.leave))
    blocks.queue(default_concurrency_limit=None, api_open=False)
    return blocks


def sources(tab: Tab) -> None:
    """Where the thing to edit is uploaded."""
    import gradio as gr

    if tab.command == "image":
        tab.source = gr.Image(
            label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=300
        )
        tab.buttons["sample"] = gr.Button("Take the sample: a cat face", size="sm")
        with gr.Accordion("Mask: paint what may change", open=False):
            brush = gr.Brush(default_size=24, colors=["#e11d48"], color_mode="fixed")
            tab.mask = gr.ImageEditor(
                show_label=False,
                type="pil",
                sources=(),
                transforms=(),
                layers=False,
                brush=brush,
                buttons=[],
                height=420,
            )
            tab.mask.blob_storage = Latest()
    elif tab.command == "svg":
        tab.source = gr.File(label="SVG", file_types=[".svg", ".svgz"], height=120)
        tab.buttons["sample"] = gr.Button("Take the sample: a cat face", size="sm")
        tab.shown = gr.Image(label="As it is drawn", interactive=False, height=260, buttons=[])
        tab.told = gr.Markdown()
    else:
        tab.source = gr.File(label="Scene (.ply of 3D Gaussian splatting)", file_types=[".ply"], height=120)
        tab.files["cameras"] = gr.File(
            label="Cameras (cameras.json or transforms.json)", file_types=[".json"], height=120
        )
        tab.buttons["sample"] = gr.Button("Take the sample: a cat face", size="sm")
        with gr.Accordion("Trained by nerfstudio", open=False):
            tab.files["frame"] = gr.File(label="dataparser_transforms.json", file_types=[".json"], height=120)
        tab.shown = gr.Image(label="The scene", interactive=False, height=260, buttons=[])
        tab.told = gr.Markdown()


class Latest(dict[str, Any]):
    """The last ones put into it: what pages have painted, until they take it with Start or were closed."""

    MOST = 32

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > self.MOST:
            self.pop(next(iter(self)))


def form(tab: Tab, desk: Desk) -> None:
    """Prompts and settings; those that few need are folded away."""
    import gradio as gr

    presets, limits = PRESETS_FOR[tab.command], desk.limits
    first = PRESETS[presets[0]]
    tab.own["prompt"] = gr.Textbox(label="What it shows", max_length=limits.max_prompt, placeholder=PROMPTS[0])
    tab.own["target_prompt"] = gr.Textbox(
        label="What it should become", max_length=limits.max_prompt, placeholder=PROMPTS[1]
    )
    tab.own["strength"] = gr.Slider(0.25, 2, 1, step=0.05, label="Strength", info=STRENGTH)
    with gr.Row():
        tab.fields["num_inference_steps"] = gr.Number(
            first.num_inference_steps, label="Steps", precision=0, minimum=1, maximum=limits.max_steps, min_width=90
        )
        tab.fields["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1, min_width=90)
        tab.own["variants"] = gr.Number(
            1, label="Variants", precision=0, minimum=1, maximum=limits.max_variants, min_width=90
        )
    with gr.Row():
        tab.buttons["start"] = gr.Button("Start", variant="primary")
        tab.buttons["stop"] = gr.Button("Stop", variant="stop", interactive=False)
    with gr.Accordion("Method and settings", open=False):
        with gr.Row():
            tab.fields["preset"] = gr.Dropdown(
                list(presets), value=presets[0], label="Method and preset", min_width=160
            )
            selectors = [(AS_PRESET, ""), *((name, name) for name in SelectorName.__args__)]
            tab.fields["patch_selector"] = gr.Dropdown(
                selectors, value="", label="Patch selector", info="of cds and cpds", min_width=160
            )
        with gr.Row():
            for name, label in (
                ("guidance_scale", "Guidance"),
                ("lr", "Learning rate"),
                ("polish", "Polish (images)"),
                ("w_cut", "Hold structure (w_cut)"),
                ("w_identity", "Pull to source (w_identity)"),
                ("resolution", "Resolution, px"),
            ):
                if tab.command == "image" or name != "polish":
                    tab.fields[name] = gr.Textbox(label=label, placeholder=AS_PRESET, min_width=130)
        tab.fields["negative_prompt"] = gr.Textbox(label="Negative prompt", max_length=limits.max_prompt)
        own_settings(tab)
        tab.own["other"] = gr.Textbox(
            label="Any other setting", lines=2, placeholder="t_max 0.9\nguidance_schedule rising",
            info=f"a line each, its name and its value, as the flags of cpds {tab.command}",
        )  # fmt: skip


def own_settings(tab: Tab) -> None:
    """Settings that one kind of edit alone has."""
    import gradio as gr

    if tab.command == "svg":
        from svg.config import GROUPS, STYLES

        tab.fields["optimize"] = gr.CheckboxGroup(
            list(GROUPS), label="What may change", info="none: as the style has it, else all but opacities"
        )
        with gr.Row():
            tab.fields["style"] = gr.Dropdown(list(STYLES), value="none", label="Style", min_width=130)
            tab.fields["only"] = gr.Textbox(label="Only these ids or classes", placeholder="#face .skin", min_width=130)
            tab.fields["may_add"] = gr.Number(0, label="Paths it may add", precision=0, minimum=0, min_width=130)
            tab.fields["may_remove"] = gr.Checkbox(label="Small shapes may fade out", min_width=130)
    elif tab.command == "splats":
        from representations.splats.config import GROUPS as PARTS

        tab.fields["optimize"] = gr.CheckboxGroup(
            list(PARTS), value=list(PARTS), label="What may change", info="none: all"
        )
        tab.fields["region"] = gr.Textbox(label="Region", placeholder="x y z radius, or x y z x y z")


def results(tab: Tab) -> None:
    """Where an edit is watched, and what it leaves."""
    import gradio as gr

    made = tab.result
    made["status"] = gr.HTML(status_html(Status("", 0, None, True, [])), elem_classes="status")
    made["preview"] = gr.Image(
        label="On the way", interactive=False, height=340, buttons=["fullscreen"], elem_id=f"{tab.command}-preview"
    )
    made["slider"] = gr.ImageSlider(
        label="Before and after", interactive=False, visible=False, max_height=420, elem_id=f"{tab.command}-slider"
    )
    made["turning"] = gr.Image(label="The result", interactive=False, visible=False, height=300, buttons=[])
    made["variants"] = gr.Gallery(label="Variants", visible=False, columns=4, height=240, interactive=False)
    made["files"] = gr.File(
        label="Download: result, animation, settings", visible=False, interactive=False, elem_id=f"{tab.command}-files"
    )
    with gr.Accordion("Your runs", open=True):
        made["history"] = gr.Gallery(
            show_label=False,
            columns=5,
            fit_columns=False,
            height=170,
            allow_preview=False,
            interactive=False,
            object_fit="contain",
            elem_id=f"{tab.command}-history",
        )
        with gr.Row():
            tab.buttons["resume"] = gr.Button("Go on with this run", size="sm", interactive=False)
            tab.buttons["remove"] = gr.Button("Remove this run", size="sm", interactive=False)
    tab.timer, tab.chosen = gr.Timer(TICK, active=False), gr.State("")


def wire(blocks: Any, tab: Tab, desk: Desk) -> None:
    """Which event does what."""
    made, buttons, fields = tab.result, tab.buttons, tab.fields
    handle = Handlers(tab, desk)
    watched = [tab.timer, buttons["start"], buttons["stop"], *made.values()]
    runs = [buttons["resume"], buttons["remove"]]

    def on(event: Any, handler: Any, inputs: Any, outputs: list[Any], *, picked: bool = False) -> None:
        called = handled(desk, handler, picked=picked)
        event(called, inputs, outputs, api_visibility="private", show_progress="hidden")

    on(buttons["start"].click, handle.begin, tab.inputs, watched)
    on(buttons["stop"].click, handle.stop, None, [buttons["stop"]])
    on(tab.timer.tick, handle.look, None, watched)
    on(made["history"].select, handle.choose, None, [tab.chosen, *runs, *made.values()], picked=True)
    on(buttons["resume"].click, handle.resume, [tab.chosen], watched)
    on(buttons["remove"].click, handle.remove, [tab.chosen], [made["history"], *runs])
    on(fields["preset"].change, handle.preset, [fields["preset"]], [fields["num_inference_steps"]])
    on(blocks.load, handle.arrive, None, [made["history"]])
    samples = [tab.source, *[tab.files[name] for name in ("cameras",) if name in tab.files]]
    on(buttons["sample"].click, handle.sample, None, [*samples, tab.own["prompt"], tab.own["target_prompt"]])
    if tab.command == "image":
        on(tab.source.change, handle.canvas, [tab.source], [tab.mask])
    for widget in [tab.source, *tab.files.values()] if tab.shown is not None else []:
        on(widget.change, handle.describe, tab.inputs, [tab.shown, tab.told])
    if tab.command == "svg":
        for event in (fields["optimize"].change, fields["style"].change, fields["only"].submit):
            on(event, handle.describe, tab.inputs, [tab.shown, tab.told])
