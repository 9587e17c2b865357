"""Where an edit belongs: where the prior tells the two prompts apart in the noised source (after DiffEdit, 2022)."""

from typing import Any

import torch

from cpds.alike import DIFFERENT, Alike
from cpds.objectives.base import EditPair, Relevance
from cpds.priors.base import Conditioning, Prior
from cpds.types import Latents

FLOW_TIMES = (0.69, 0.8)  # noise levels at which the prompts differ where the edit belongs, and little elsewhere
DRAWS = 3  # of noise, at each of them
RAMP = (0.2, 0.45)  # relevance from which on something, and from which on all of a cell may change


@torch.no_grad()
def relevance_map(
    prior: Prior,
    source: Latents,
    before: Conditioning,
    after: Conditioning,
    generator: torch.Generator,
    edits: int = 1,
    same: Alike = DIFFERENT,
) -> Relevance:
    """How strongly the prior would change each cell of `source`, by 12 samples of each of its views.

    The mean over channels and DRAWS noises at each of FLOW_TIMES of |eps(S, tgt) - eps(S, src)|, divided by the mean of
    its highest tenth, image by image: about 1 where the edit belongs. `before` and `after`: a row for each of `edits`.
    Views that are the `same` to the prior before the edit are asked about eps(S, src) once: 6 samples less.

    Predictions are those under a prompt alone, without guidance, on every kind of prior (a network that takes the scale
    as an input is asked at 1): guidance multiplies their difference by its scale, which the division takes out again.
    """
    total = torch.zeros_like(source[:, :1])
    unedited, edited = (prompts.repeat(len(source)) for prompts in (before, after))
    both = Conditioning.cat([unedited.distinct(same), edited])
    for flow_time in FLOW_TIMES:
        t = torch.tensor([prior.schedule.timestep_at(flow_time)])
        for _ in range(DRAWS):
            x_t = EditPair.draw(source, source, t, generator, edits).noised("source", prior.schedule)
            eps = prior.denoise(torch.cat([same.distinct(x_t), x_t]), t.repeat(len(both)), both).eps
            unchanged, changed = eps[: -len(x_t)], eps[-len(x_t) :]
            total += (changed - same.spread(unchanged)).abs().mean(1, keepdim=True)
    cells = total.flatten(1)
    highest = cells.topk(max(1, cells.shape[1] // 10)).values.mean(1)
    return total / highest.clamp(min=1e-30).view(-1, 1, 1, 1)


def changes(relevance: Relevance) -> Relevance:
    """A soft mask of where the edit belongs: 0 up to the lower end of RAMP, 1 from its upper end on."""
    low, high = RAMP
    return ((relevance - low) / (high - low)).clamp(0, 1)


class RelevanceMaps:
    """The maps of the views that an edit has seen, each made once for as long as its source's latents are kept."""

    def __init__(self, prior: Prior, seed: int) -> None:
        from torch.utils.weak import WeakTensorKeyDictionary

        self.prior, self.seed = prior, seed
        self._maps: Any = WeakTensorKeyDictionary()

    def clear(self) -> None:
        """Forget all: the prompts are others."""
        self._maps.clear()

    def of(self, source: Latents, before: Conditioning, after: Conditioning, edits: int, same: Alike) -> Relevance:
        """The map of the latents `source`, on the CPU.

        The noise is drawn from the seed alone: a resumed run makes the same map.
        """
        if source not in self._maps:
            generator = torch.Generator().manual_seed(self.seed)
            self._maps[source] = relevance_map(self.prior, source, before, after, generator, edits, same).cpu()
        return self._maps[source]
