"""CLIP's text encoder and tokenizer (Radford 2021) in plain torch, for the embedded prior: see networks.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpds.priors.networks import Network


class CausalAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.self_attn = CausalAttention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        h = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](h * torch.sigmoid(1.702 * h))  # CLIP's quick gelu


class TextEncoder(Network):
    """(b, n) tokens to (b, n, d) embeddings. `config`: transformers'."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        c = self.config
        width, eps = c.hidden_size, c.layer_norm_eps
        sizes = {"token_embedding": c.vocab_size, "position_embedding": c.max_position_embeddings}
        empty = {
            name: torch.empty(size, width) for name, size in sizes.items()
        }  # no random start: that loads a compiler
        self.embeddings = nn.ModuleDict({name: nn.Embedding.from_pretrained(x) for name, x in empty.items()})
        layers = [Layer(width, c.intermediate_size, c.num_attention_heads, eps) for _ in range(c.num_hidden_layers)]
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.final_layer_norm = nn.LayerNorm(width, eps)

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.embeddings["token_embedding"](ids) + self.embeddings["position_embedding"](positions)
        for layer in self.encoder["layers"]:  # pyright: ignore[reportGeneralTypeIssues]
            x = layer(x)
        return (self.final_layer_norm(x),)


class Tokenizer:
    """A prompt's tokens, with one that begins and one that ends it."""

    def __init__(self, folder: Path, longest: int) -> None:
        from tokenizers import Tokenizer as Rust

        file = str(folder / "tokenizer.json")
        self.model_max_length = longest
        self._whole, self._fitted = Rust.from_file(file), Rust.from_file(file)
        self._whole.no_truncation()
        self._whole.no_padding()
        self._fitted.enable_truncation(longest)
        self._fitted.enable_padding(length=longest, **_padding(self._fitted))

    def __call__(self, prompt: str) -> Any:
        """`input_ids` of the whole prompt, however long."""
        return SimpleNamespace(input_ids=self._whole.encode(prompt).ids)

    def fitted(self, prompts: Sequence[str]) -> Tensor:
        """(b, longest): cut or padded."""
        return torch.tensor([found.ids for found in self._fitted.encode_batch(list(prompts))])

    def num_special_tokens_to_add(self) -> int:
        return self._whole.num_special_tokens_to_add(False)

    def decode(self, ids: Sequence[int]) -> str:
        return self._whole.decode(list(ids), skip_special_tokens=False).replace("</w>", " ")  # ends of words


def _padding(tokenizer: Any) -> dict[str, Any]:
    """The token that the file pads with."""
    return {name: tokenizer.padding[name] for name in ("pad_id", "pad_token")}
