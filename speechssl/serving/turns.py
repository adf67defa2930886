"""One at a time, in the order of arrival."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager


class Turns:
    """A queue in front of something that only one may use."""

    def __init__(self) -> None:
        self._places: list[Place] = []

    @contextmanager
    def place(self) -> Iterator[Place]:
        """A place at the end of the queue, which is given up when the block is left."""
        place = Place(self._places)
        self._places.append(place)
        try:
            yield place
        finally:
            self._places.remove(place)
            for other in self._places:
                other.moved.set()


class Place:
    """A place in the queue."""

    def __init__(self, places: list[Place]) -> None:
        self._places = places
        self.moved = asyncio.Event()
        """Set when somebody has left the queue."""

    async def wait(self) -> AsyncIterator[int]:
        """Waits for its turn; yields how many are ahead, at first and whenever that changes."""
        told = 0
        while ahead := self._places.index(self):
            if ahead != told:
                yield ahead
            told = ahead
            await self.moved.wait()
            self.moved.clear()
