"""Text encoders that are chat models: a prompt is one turn of a conversation."""

import warnings
from typing import Any


def warn_if_chat_is_cut(tokenizer: Any, prompt: str, longest: int, *, enable_thinking: bool) -> None:
    """Name what a prompt loses where it and the template around it have more than `longest` tokens."""
    empty = tokenizer.apply_chat_template(
        [{"role": "user", "content": ""}], tokenize=False, add_generation_prompt=True, enable_thinking=enable_thinking
    )
    room = longest - len(tokenizer(empty).input_ids)
    ids = tokenizer(prompt).input_ids
    if len(ids) > room:
        lost = tokenizer.decode(ids[room:]).strip()
        warnings.warn(f"prompt is longer than the {room} tokens the text encoder takes; cut: {lost!r}", stacklevel=4)
