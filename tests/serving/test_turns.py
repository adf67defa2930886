from __future__ import annotations

import asyncio

from speechssl.serving.turns import Turns


def test_one_at_a_time_in_the_order_of_arrival() -> None:
    log: list[str] = []

    async def visit(turns: Turns, name: str) -> None:
        with turns.place() as place:
            async for ahead in place.wait():
                log.append(f"{name} behind {ahead}")
            log.append(f"{name} starts")
            await asyncio.sleep(0)
            log.append(f"{name} ends")

    async def all_visits() -> None:
        turns = Turns()
        await asyncio.gather(*(visit(turns, name) for name in "abc"))

    asyncio.run(all_visits())
    assert [line for line in log if "behind" not in line] == [
        f"{name} {what}" for name in "abc" for what in ("starts", "ends")
    ]
    assert [line for line in log if "c behind" in line] == ["c behind 2", "c behind 1"]


def test_who_leaves_the_queue_holds_nobody_up() -> None:
    async def main() -> list[int]:
        turns = Turns()
        with turns.place():

            async def impatient() -> None:
                with turns.place() as place:
                    async for _ in place.wait():
                        pass

            task = asyncio.create_task(impatient())
            await asyncio.sleep(0)
            with turns.place() as last:
                seen = []
                async for ahead in last.wait():
                    seen.append(ahead)
                    if ahead == 2:
                        task.cancel()
                    else:
                        return seen
        return []

    assert asyncio.run(main()) == [2, 1]
