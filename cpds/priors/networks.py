"""Stable Diffusion's UNet and autoencoder in plain torch, for the embedded prior.

diffusers' own, with all that their import draws in, take longer to import than a first edit takes. These have the same
tensors by the same names, and their results to the last bit; whatever else a network is asked for diffusers does.
Rombach 2022 (latent diffusion), Ho 2020 (residual blocks with time), Shazeer 2020 (GEGLU).
"""

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpds.types import Images, Latents, Timesteps


class Config(dict[str, Any]):
    """A network's settings, by key and by attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Network(nn.Module):
    """What a prior asks of a network beside its call."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = Config(config)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + time))), x by a 1x1 convolution where the channels change."""

    def __init__(self, channels: int, out: int, groups: int, eps: float, time: int | None = None) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels, eps), nn.GroupNorm(groups, out, eps)
        self.conv1, self.conv2 = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.time_emb_proj = None if time is None else nn.Linear(time, out)
        self.conv_shortcut = None if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, time: Any = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            h = h + self.time_emb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Of tokens (b, n, d) on themselves, or on a context (b, m, c)."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(d, width, bias=False) for d in (width, context, context))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """GEGLU: one half of a linear map times the gelu of the other."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"0": Gated(width, 4 * width), "2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["2"](self.net["0"](x))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1, self.attn2 = Attention(width, width, heads), Attention(width, context, heads)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    """A transformer block over the cells of a map."""

    def __init__(self, width: int, context: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, 1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context, heads)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        h = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).flatten(1, 2)
        h = self.transformer_blocks[0](h, context)
        return self.proj_out(h.unflatten(1, (rows, columns)).permute(0, 3, 1, 2).contiguous()) + x


class Down(nn.Module):
    """Half the sides; an autoencoder pads at the lower right alone."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if any(self.conv.padding) else F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Twice the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Block(nn.Module):
    """Residual blocks at one scale, each with a spatial transformer where there is attention; then a step in scale."""

    def __init__(
        self, resnets: list[Residual], attentions: list[SpatialTransformer], scaling: Down | Up | None
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        self.downsamplers = nn.ModuleList([scaling]) if isinstance(scaling, Down) else None
        self.upsamplers = nn.ModuleList([scaling]) if isinstance(scaling, Up) else None

    def forward(self, x: Tensor) -> Tensor:
        """Of an autoencoder: without attention and time."""
        for resnet in self.resnets:
            x = resnet(x)
        for scaling in self.downsamplers or self.upsamplers or ():
            x = scaling(x)
        return x


class UNet(Network):
    """Noise prediction (Stable Diffusion's layout, with attention at every scale). `config`: diffusers'."""

    down_blocks: Any  # lists of Block
    up_blocks: Any
    mid_block: Any

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        c = self.config
        widths, layers, groups = c.block_out_channels, c.layers_per_block, c.norm_num_groups
        time, last = 4 * widths[0], len(widths) - 1

        def resnet(channels: int, out: int) -> Residual:
            return Residual(channels, out, groups, c.norm_eps, time)

        def attention(i: int) -> SpatialTransformer:
            return SpatialTransformer(widths[i], c.cross_attention_dim, c.attention_head_dim[i], groups)

        self.conv_in = nn.Conv2d(c.in_channels, widths[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict({"linear_1": nn.Linear(widths[0], time), "linear_2": nn.Linear(time, time)})
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips = [widths[0]]  # channels of what the way up takes from the way down
        for i, width in enumerate(widths):
            resnets = [resnet(skips[-1] if j == 0 else width, width) for j in range(layers)]
            down = Down(width, 1) if i < last else None
            self.down_blocks.append(Block(resnets, [attention(i) for _ in resnets], down))
            skips += [width] * (layers + (down is not None))
        self.mid_block = Block([resnet(widths[-1], widths[-1]) for _ in range(2)], [attention(last)], None)
        channels = widths[-1]
        for i in reversed(range(len(widths))):
            resnets = []
            for _ in range(layers + 1):
                resnets.append(resnet(channels + skips.pop(), widths[i]))
                channels = widths[i]
            self.up_blocks.append(Block(resnets, [attention(i) for _ in resnets], Up(channels) if i else None))
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], c.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], c.out_channels, 3, padding=1)

    def forward(self, x_t: Latents, t: Timesteps, context: Tensor) -> Any:
        """`sample` (b, c, h, w) of `x_t`, (b) or (1) timesteps and encoded prompts (b, n, d)."""
        frequencies = torch.arange(self.conv_in.out_channels // 2, dtype=torch.float32, device=t.device)
        frequencies = torch.exp(-math.log(10000) * frequencies / len(frequencies))
        angles = t.expand(len(x_t))[:, None].float() * frequencies
        time = torch.cat([angles.cos(), angles.sin()], dim=-1).to(x_t.dtype)
        time = self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](time)))
        h = self.conv_in(x_t)
        skips = [h]
        for block in self.down_blocks:
            for resnet, attention in zip(block.resnets, block.attentions, strict=True):
                h = attention(resnet(h, time), context)
                skips.append(h)
            for down in block.downsamplers or ():
                h = down(h)
                skips.append(h)
        first, second = self.mid_block.resnets
        h = second(self.mid_block.attentions[0](first(h, time), context), time)
        for block in self.up_blocks:
            for resnet, attention in zip(block.resnets, block.attentions, strict=True):
                h = attention(resnet(torch.cat([h, skips.pop()], dim=1), time), context)
            for up in block.upsamplers or ():
                h = up(h)
        return SimpleNamespace(sample=self.conv_out(F.silu(self.conv_norm_out(h))))


class Coder(nn.Module):
    """One half of an autoencoder: from `channels` to `out`, by way of these widths."""

    def __init__(self, channels: int, out: int, widths: list[int], layers: int, groups: int, *, up: bool) -> None:
        super().__init__()
        steps = [Up(w) if up else Down(w, 0) for w in widths[:-1]]
        blocks = nn.ModuleList()
        for before, width, scaling in zip([widths[0], *widths], widths, [*steps, None], strict=False):
            resnets = [Residual(before if j == 0 else width, width, groups, 1e-6) for j in range(layers)]
            blocks.append(Block(resnets, [], scaling))
        inner = widths[0] if up else widths[-1]
        middle = Block([Residual(inner, inner, groups, 1e-6) for _ in range(2)], [], None)
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        if up:
            self.mid_block, self.up_blocks = middle, blocks
        else:
            self.down_blocks, self.mid_block = blocks, middle
        self.parts = [middle, *blocks] if up else [*blocks, middle]
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], 1e-6)
        self.conv_out = nn.Conv2d(widths[-1], out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for part in self.parts:
            x = part(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Autoencoder(Network):
    """Images (b, 3, H, W) in [-1, 1] and latents, without attention. `config`: diffusers'."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        c = self.config
        widths, z = list(c.block_out_channels), c.latent_channels
        shared: Any = (c.layers_per_block, c.norm_num_groups)
        self.encoder = Coder(c.in_channels, 2 * z, widths, *shared, up=False)
        self.decoder = Coder(z, c.out_channels, widths[::-1], shared[0] + 1, shared[1], up=True)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(2 * z, 2 * z, 1), nn.Conv2d(z, z, 1)

    def encode(self, images: Images) -> Any:
        """`latent_dist.mean`."""
        mean, _ = self.quant_conv(self.encoder(images)).chunk(2, dim=1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean))

    def decode(self, latents: Latents) -> Any:
        """`sample`."""
        return SimpleNamespace(sample=self.decoder(self.post_quant_conv(latents)))
