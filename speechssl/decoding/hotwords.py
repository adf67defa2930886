"""Hotwords: words and phrases that a beam search is told to expect.

On the fly, the search credits every symbol that extends the beginning of a phrase, and takes the
credit back as soon as the phrase turns out not to be there (shallow-fusion biasing). Source:
Zhao et al. 2019, "Shallow-fusion end-to-end contextual biasing", section 3; the phrases are matched
with the automaton of Aho & Corasick 1975, "Efficient string matching", so that a phrase is also
found where it begins inside of another that fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from flashlight.lib.text.decoder import LM, LMState

ROOT = 0
"""The node where nothing is matched."""


class PhraseMatcher:
    """An Aho-Corasick automaton whose walk over symbols earns and loses credit.

    In state ``node``, ``credit[node]`` has been paid for the phrase that is being matched. Of it,
    ``kept[node]`` stays if the match ends here: the reward of the phrases that are complete.
    """

    def __init__(self, phrases: Sequence[tuple[Sequence[int], float]], *, free: int = 0) -> None:
        """``phrases`` are pairs of symbols and of the reward for having all of them.

        The first ``free`` symbols of a phrase earn nothing by themselves.
        """
        self.children: list[dict[int, int]] = [{}]
        self.credit = [0.0]
        self.kept = [0.0]
        self.fail = [ROOT]
        for symbols, reward in phrases:
            self._add(symbols, reward, free)
        self._link()

    def step(self, node: int, symbol: int) -> tuple[int, float]:
        """The state after ``symbol``, and what the symbol earns (negative if it breaks a match)."""
        earned = 0.0
        while symbol not in self.children[node] and node != ROOT:
            shorter = self.fail[node]
            earned += self._at_risk(shorter) - self._at_risk(node)
            node = shorter
        after = self.children[node].get(symbol, ROOT)
        return after, earned + self.credit[after] - self.credit[node]

    def finish(self, node: int) -> float:
        """What the end earns: a phrase that is not complete loses its credit."""
        return -self._at_risk(node)

    def _at_risk(self, node: int) -> float:
        return self.credit[node] - self.kept[node]

    def _add(self, symbols: Sequence[int], reward: float, free: int) -> None:
        node = ROOT
        for length, symbol in enumerate(symbols, start=1):
            if symbol not in self.children[node]:
                self.children[node][symbol] = len(self.children)
                self.children.append({})
                self.credit.append(0.0)
                self.kept.append(0.0)
                self.fail.append(ROOT)
            node = self.children[node][symbol]
            share = max(0, length - free) / (len(symbols) - free)
            self.credit[node] = max(self.credit[node], reward * share)
        self.kept[node] = max(self.kept[node], reward)

    def _link(self) -> None:
        """Sets ``fail`` (the longest other match that ends here) and completes ``kept``."""
        queue = deque([ROOT])
        while queue:
            node = queue.popleft()
            for symbol, child in self.children[node].items():
                if node != ROOT:
                    shorter = self.fail[node]
                    while symbol not in self.children[shorter] and shorter != ROOT:
                        shorter = self.fail[shorter]
                    self.fail[child] = self.children[shorter].get(symbol, ROOT)
                self.kept[child] = max(
                    self.kept[child], self.kept[node], self.kept[self.fail[child]]
                )
                self.credit[child] = max(self.credit[child], self.kept[child])
                queue.append(child)


@dataclass
class _Context:
    """What the search knows at one point of a reading."""

    base: LMState
    node: int
    steps: dict[int, tuple[LMState, float]] = field(default_factory=dict)


class HotwordLM(LM):  # type: ignore[misc]
    """A language model for flashlight that adds the credit of a ``PhraseMatcher`` to another one.

    Each reading has a state of its own, as in flashlight's KenLM: the search adds up what shares a
    state, and only alignments of the same reading may be added up.
    """

    def __init__(self, base: LM, matcher: PhraseMatcher, *, start: int, scale: float) -> None:
        """``start`` is the matcher's state at the beginning; credit is multiplied by ``scale``."""
        super().__init__()
        self.base = base
        self.matcher = matcher
        self.start_node = start
        self.scale = scale

    def start(self, start_with_nothing: bool) -> LMState:
        """The state at the beginning of a recording; forgets the one before."""
        self._contexts: dict[LMState, _Context] = {}
        return self._state(self.base.start(start_with_nothing), self.start_node)

    def score(self, state: LMState, symbol: int) -> tuple[LMState, float]:
        """The state after ``symbol`` and the score of ``symbol``."""
        context = self._contexts[state]
        if symbol not in context.steps:
            base, score = self.base.score(context.base, symbol)
            node, credit = self.matcher.step(context.node, symbol)
            context.steps[symbol] = self._state(base, node), score + self.scale * credit
        return context.steps[symbol]

    def finish(self, state: LMState) -> tuple[LMState, float]:
        """The score of ending here."""
        context = self._contexts[state]
        _, score = self.base.finish(context.base)
        return state, score + self.scale * self.matcher.finish(context.node)

    def _state(self, base: LMState, node: int) -> LMState:
        state = LMState()
        self._contexts[state] = _Context(base, node)
        return state
