"""Processes are killed and stopped under load: every response ends as if nothing had happened."""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.chaos import Deed, Mischief, Wanted, Wish, assert_all_is_well, chaos_session
from tests.support.fleet import Fleet, running_fleet
from tests.support.http import output_text
from tests.support.model import model_path
from tests.support.stream_rules import Json
from tests.support.worker import MODEL

CLIENTS = 30
SETTINGS: dict[str, Any] = {"heartbeat_interval_s": "0.5", "background_attempts": "20"}
"""One thing befalls a response after the other, faster than edges with short leases bring it a token further: it is not
given up for that, as one would be that kills its edges."""


def counting(count: int, pace: int) -> Json:
    """Asks the scripted engine for so many numbers, at so many tokens a second."""
    script = f"script:\npace {pace}\n" + "".join(f"say {number} \n" for number in range(count))
    return {"model": MODEL, "input": script}


def counted(count: int) -> Callable[[Json], None]:
    """Checks that a response is complete and exact."""
    expected = "".join(str(number) for number in range(count))

    def check(final: Json) -> None:
        assert (final["status"], final["error"]) == ("completed", None), final["id"]
        assert "".join(output_text(final).split()) == expected

    return check


def wishes(rng: random.Random, params: Json, *, is_resumable: bool) -> Iterator[Wish]:
    """Half in the background; of those some are polled, not streamed. Of the others some are not stored. A third has
    an Idempotency-Key."""
    for number in range(CLIENTS):
        is_background = number % 2 == 0
        is_stored = is_background or number % 5 > 0
        key = f"chaos-{rng.getrandbits(64)}" if is_stored and number % 3 == 0 else None
        yield Wish(
            number,
            params,
            background=is_background,
            stream=not is_background or number % 4 > 0,
            store=is_stored,
            key=key,
            is_resumable=is_background or key is not None or (is_stored and is_resumable),
        )


async def survive(
    fleet: Fleet, asked: Sequence[Wish], deeds: Sequence[tuple[Deed, int]], check: Callable[[Json], None], seed: int
) -> list[float]:
    """Run all clients; once each has its response, do ``deeds``, one after the other. How long each client waited at
    most."""

    def edges() -> list[str]:
        return [edge.base_url for edge in fleet.edges]

    async with chaos_session() as session:
        wanted = [Wanted(session, edges, wish, seed=seed + wish.number) for wish in asked]
        async with asyncio.timeout(300), asyncio.TaskGroup() as clients:
            for each in wanted:
                clients.create_task(each.run())
            while not all(each.ids for each in wanted):  # noqa: ASYNC110 - the clients find it out
                await asyncio.sleep(0.02)
            for deed, index in deeds:
                await deed(index)
        await assert_all_is_well(fleet, session, wanted, check)
    return [each.longest_wait_s for each in wanted]


def test_every_process_is_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    asked = list(wishes(random.Random(0), counting(80, pace=12), is_resumable=True))
    with running_fleet(tmp_path, resumable_streams="true", **SETTINGS) as fleet:
        mischief = Mischief(fleet, stop_s=1.5)
        zombie = fleet.edges[1]
        deeds: list[tuple[Deed, int]] = [(mischief.stop_edge, 1), (mischief.kill_worker, 0)]
        deeds += [(mischief.kill_store, 0), (mischief.drain_edge, 1)]
        asyncio.run(survive(fleet, asked, deeds, counted(80), seed=0))
        assert "job lost" in zombie.log.read_text()  # it slept longer than its leases


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_resumable", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_whatever_befalls_the_processes(tmp_path: Path, seed: int, is_resumable: bool) -> None:
    rng = random.Random(f"{seed} {is_resumable}")
    settings = {**SETTINGS, "resumable_streams": str(is_resumable).lower(), "lease_s": rng.choice(["1", "5"])}
    with running_fleet(tmp_path, edges=rng.choice([2, 3]), workers=rng.choice([2, 3]), **settings) as fleet:
        mischief = Mischief(fleet, stop_s=rng.uniform(0.2, 3))
        deeds = [(rng.choice(mischief.deeds), rng.randrange(2)) for _ in range(12)]
        asked = list(wishes(rng, counting(100, pace=rng.choice([6, 10])), is_resumable=is_resumable))
        waits = asyncio.run(survive(fleet, asked, deeds, counted(100), seed=seed))
    print(f"lease {settings['lease_s']} s; longest waits {sorted(waits)[-3:]} s; stops {mischief.stop_s:.1f} s:")
    print(*mischief.done, sep="\n")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_of_a_real_model_is_lost(tmp_path: Path) -> None:
    params = {"model": MODEL, "input": "Count from one to one hundred, in words.", "max_output_tokens": 150}

    def check(final: Json) -> None:
        assert final["status"] in {"completed", "incomplete"}, final
        assert output_text(final)

    worker = {"engine": "llamacpp", "model_path": str(model_path()), "parallel": "8", "context_window": "8192"}
    asked = list(wishes(random.Random(0), params, is_resumable=True))
    with running_fleet(
        tmp_path, resumable_streams="true", worker_settings=worker | {"threads": "1"}, **SETTINGS
    ) as fleet:
        mischief = Mischief(fleet, stop_s=2)
        deeds = [(deed, index) for index in (0, 1) for deed in mischief.deeds]
        asyncio.run(survive(fleet, asked, deeds, check, seed=0))
