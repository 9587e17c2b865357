"""Choose what a scene pair shows: icons alike in shape, a background that they stand out from, prompts that fit."""

import random

import torch

from scripts.emoji_prior.benchmark import ALIKE, OBJECTS, overlap
from scripts.emoji_prior.collages import Background, Collage, random_background, relation
from scripts.emoji_prior.icons import Icons, concepts_by_kind, held_out_pairs, with_article
from scripts.emoji_prior.scenes import ScenePair, place

CLEAR = 0.3  # least distance in RGB of an icon's mean color from each of the background's
STYLES = ("flat", "3d")  # the styles whose names an English reader understands
RESTYLED = 0.12  # least mean difference in RGB of an icon's two styles: a change that one sees
# first words of concepts.txt that do not go with 'a' (plurals, substances), or that nobody says
UNCOUNTABLE = {
    *("grapes", "cherries", "pancakes", "french-fries", "peanuts", "jeans", "sunglasses", "scissors", "headphone"),
    *("bacon", "popcorn", "cheese-wedge", "sushi", "custard", "fire", "hourglass-done", "pool-8-ball", "game-die"),
    *("cat", "dog", "pig", "cow", "horse", "rabbit", "mouse", "tiger", "monkey"),  # 'a whole cat'
}


class SceneDrawer:
    """Draws pairs from rendered icons; `kind` is one of benchmark.COUNTS."""

    def __init__(self, icons: Icons) -> None:
        table = concepts_by_kind()
        self.icons, self.secret = icons, held_out_pairs()
        self.nouns = {n: w[0] for words in table.values() for n, w in words.items() if n not in UNCOUNTABLE}
        self.group = {
            n: "object" if kind in OBJECTS else kind for kind, words in table.items() for n in words if n in self.nouns
        }
        drawn = zip(icons.concept, icons.style, strict=True)
        self.index = {(c, s): i for i, (c, s) in enumerate(drawn) if c in self.nouns}
        rgba = icons.rgba[:, :, ::4, ::4].float() / 255
        self.small = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)  # premultiplied
        self.mean = self.small[:, :3].sum((2, 3)) / self.small[:, 3:].sum((2, 3))

    def draw(self, kind: str, count: int, pattern: str, held_out: bool, rng: random.Random) -> ScenePair:
        """One pair of `count` icons on a background of the kind `pattern`; only the target may be held out."""
        while True:
            before, after = self.ends(kind, held_out, rng)
            others = self._bystanders(before, after, count - 1, rng)
            backgrounds = self._backgrounds(kind, pattern, [before, after, *others], rng)
            if backgrounds is not None and len(others) == count - 1:
                return self._pair(kind, before, after, others, backgrounds, held_out, rng)

    def ends(self, kind: str, held_out: bool, rng: random.Random) -> tuple[int, int]:
        """Icons before and after an edit of the kind, alike in shape; the same one twice for a background."""
        open_, secret = ([p for p in self.index if (p in self.secret) == s] for s in (False, True))
        while True:
            concept, style = rng.choice(secret if held_out else open_)
            if kind == "background":
                return self.index[concept, style], self.index[concept, style]
            sources = [p for p in open_ if p != (concept, style) and self._may_become(kind, p, (concept, style))]
            if sources:
                before, after = self.index[rng.choice(sources)], self.index[concept, style]
                if overlap(self.icons, before, after) >= ALIKE and not (kind == "style" and self._same(before, after)):
                    return before, after

    def _same(self, a: int, b: int) -> bool:
        """Whether one can hardly tell the two icons apart."""
        one, other = self.small[a], self.small[b]
        return bool((one - other)[:3].abs().sum() / 3 < RESTYLED * torch.maximum(one, other)[3].sum())

    def _may_become(self, kind: str, before: tuple[str, str], after: tuple[str, str]) -> bool:
        """Whether an edit of the kind leads from one (concept, style) to the other."""
        a, b = before[0], after[0]
        if kind == "style":
            return a == b and {before[1], after[1]} == set(STYLES)
        same = before[1] == after[1] and self.group[a] == self.group[b] == kind
        if kind == "colour":  # of the same thing: a heart remains a heart
            return same and self.nouns[a].split()[-1] == self.nouns[b].split()[-1]
        return same and not self._words(a) & self._words(b)

    def _words(self, concept: str) -> set[str]:
        return set(self.nouns[concept].split()) - {"face", "of"}

    def _bystanders(self, before: int, after: int, count: int, rng: random.Random) -> list[int]:
        """Icons of the source's style that no noun of the prompts could also mean; fewer than `count` by bad luck."""
        style = self.icons.style[before]
        used = self._words(self.icons.concept[before]) | self._words(self.icons.concept[after])
        found = []
        for concept, s in rng.sample(sorted(self.index), len(self.index)) if count else []:
            if s == style and (concept, s) not in self.secret and not used & self._words(concept):
                used |= self._words(concept)
                found.append(self.index[concept, s])
        return found[:count]

    def _backgrounds(
        self, kind: str, pattern: str, icons: list[int], rng: random.Random
    ) -> tuple[Background, Background] | None:
        """Those of source and ground truth, from which every icon stands out; None if none is found soon."""
        for _ in range(40):
            source = ground_truth = random_background(rng, pattern)
            if kind == "background":
                ground_truth = random_background(rng, rng.choice(("plain", "textured")))
                if ground_truth.first[0] in (source.first[0], source.second[0]):
                    continue
            if all(self._clear(b, icons) for b in (source, ground_truth)):
                return source, ground_truth
        return None

    def _clear(self, background: Background, icons: list[int]) -> bool:
        """Whether the mean color of each icon differs from all of the background's, and the pattern can be seen."""
        first, second = (torch.tensor(rgb) / 255 for _, rgb in (background.first, background.second))
        if background.kind not in ("plain", "textured") and (first - second).norm() < CLEAR:
            return False
        shown = torch.stack([first] if background.kind == "plain" else [first, (first + second) / 2, second])
        return bool(torch.cdist(self.mean[icons], shown).min() > CLEAR)

    def _pair(
        self,
        kind: str,
        before: int,
        after: int,
        others: list[int],
        backgrounds: tuple[Background, Background],
        held_out: bool,
        rng: random.Random,
    ) -> ScenePair:
        changed = rng.randint(0, len(others))
        scenes = place([*others[:changed], before, *others[changed:]], rng)
        source = Collage(tuple(scenes), backgrounds[0])
        ends = [*scenes[:changed], scenes[changed].counterpart(after), *scenes[changed + 1 :]]
        ground_truth = Collage(tuple(ends), backgrounds[1])
        related = rng.random() < 0.5
        prompt, target_prompt = (self._prompt(c, kind == "style", related) for c in (source, ground_truth))
        expect = {"concept": self.icons.concept[after]}
        expect |= {"style": self.icons.style[after]} if kind == "style" else {}
        expect |= {"background": backgrounds[1].first[0]} if kind == "background" else {}
        count = f"{len(scenes)} icon{'s' * (len(scenes) > 1)}"
        tags = [kind, "held-out" if held_out else "seen", count, backgrounds[0].kind]
        return ScenePair(kind, source, ground_truth, changed, prompt, target_prompt, expect, tags)

    def _prompt(self, collage: Collage, styled: bool, related: bool) -> str:
        """'a cat face left of a tomato on a blue and white striped background'; styles where these differ."""
        nouns = []
        for scene in collage.scenes:
            noun = self.nouns[self.icons.concept[scene.icon]]
            nouns.append(with_article(f"{self.icons.style[scene.icon]} {noun}" if styled else noun))
        if len(nouns) == 2 and related:
            what = f"{nouns[0]} {relation(*collage.scenes)} {nouns[1]}"
        else:
            what = " and ".join([", ".join(nouns[:-1]), nouns[-1]][len(nouns) == 1 :])
        return f"{what} on {collage.background.words()}"
