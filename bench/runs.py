"""The measurements: each starts what it needs, loads it, and gives rows for the table."""

import time
from collections.abc import Generator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2
from antiphon.store.v1.record_pb2 import ResponseRecord
from bench.load import Load, loading
from bench.processes import MODEL, Server, edge, floor, naive_edge, valkey, worker
from edge.codec import with_defaults
from store import ids
from store.batcher import Command, CommandBatcher, Reply
from store.connection import open_client
from store.responses import ResponseStore

_ROUNDS = 3
"""Of each measurement, those to be compared taking turns; the table has medians."""

_FULL_RATE = 256 * 100
"""Tokens a second of the largest load."""


class Row(NamedTuple):
    """One line of the table."""

    name: str
    measured: str
    against: str
    result: str
    bar: str


class Cost(NamedTuple):
    """What a load cost."""

    us_per_event: float
    """CPU of the server that was loaded."""
    us_per_response: float
    events_per_token: float
    worker_us_per_token: float
    tokens_per_s: float
    """What was reached, start and end of the load included."""
    late_p99_ms: float


class Case(NamedTuple):
    """A load on a server."""

    server: Server
    load: Load


@contextmanager
def antiphon(folder: Path) -> Generator[tuple[Server, Server], None, None]:
    """A warm edge and its worker."""
    with (
        valkey(folder) as redis_url,
        worker(folder) as inference,
        edge(folder, inference, redis_url=redis_url) as server,
    ):
        _warm_up(server)
        yield server, inference


def edge_rows(folder: Path) -> list[Row]:
    """An event's cost, against the naive edge and against the bare writer."""
    blast = Load(streams=32, responses=2, tokens=300)
    paced = Load(streams=128, tokens=200, tokens_per_s=100)
    full = Load(streams=256, tokens=300, tokens_per_s=100)
    with antiphon(folder) as (server, inference):
        with naive_edge(folder, worker=inference) as naive:
            _warm_up(naive)
            cases = {
                "blast": Case(server, blast),
                "naive blast": Case(naive, blast),
                "paced": Case(server, paced),
                "naive paced": Case(naive, paced),
            }
            costs = _take_turns(cases, inference)
        with floor(folder) as writer:
            costs |= _take_turns({"full": Case(server, full), "floor": Case(writer, full)}, inference)
    at_full = costs["full"]
    busy = at_full.us_per_event * _FULL_RATE / 1e6
    return [
        _compare("32 streams, flat out", costs["blast"], "naive", costs["naive blast"], ">= 5"),
        _per_token(costs["blast"], costs["naive blast"]),
        _compare("128 streams x 100 tokens/s", costs["paced"], "naive", costs["naive paced"], ">= 4"),
        Row(
            "256 streams x 100 tokens/s",
            f"{at_full.us_per_event:.1f} us/event",
            f"bare writer {costs['floor'].us_per_event:.1f}",
            f"{at_full.us_per_event / costs['floor'].us_per_event:.2f}x",
            "<= 1.6",
        ),
        Row("  of a core, at that rate", f"{busy:.0%}", f"{at_full.tokens_per_s:.0f} tokens/s", "", "<= 50%"),
        Row(
            "  late by, p99",
            f"{at_full.late_p99_ms:.1f} ms",
            f"bare writer {costs['floor'].late_p99_ms:.1f}",
            f"{at_full.late_p99_ms - costs['floor'].late_p99_ms:+.1f} ms",
            "<= 10 ms",
        ),
        Row("  worker", f"{at_full.worker_us_per_token:.1f} us/token", "", "", ""),
        Row("  worker, flat out", f"{costs['blast'].worker_us_per_token:.1f} us/token", "", "", ""),
    ]


def store_rows(folder: Path) -> list[Row]:
    """What storing adds to responses of 200 tokens."""
    load = Load(streams=64, responses=2, tokens=200, tokens_per_s=200)
    with antiphon(folder) as (server, inference):
        stored = Load(streams=64, responses=2, tokens=200, tokens_per_s=200, store=True)
        costs = _take_turns({"plain": Case(server, load), "stored": Case(server, stored)}, inference)
    plain, with_store = costs["plain"].us_per_event, costs["stored"].us_per_event
    return [
        Row(
            "store: true, 200 tokens",
            f"{with_store:.1f} us/event",
            f"store: false {plain:.1f}",
            f"{with_store / plain - 1:+.0%}",
            "<= +10%",
        )
    ]


def fixed_rows(folder: Path) -> list[Row]:
    """What a response costs whatever its length: responses of one token."""
    with antiphon(folder) as (server, inference), naive_edge(folder, worker=inference) as naive:
        _warm_up(naive)
        load = Load(streams=32, responses=40)
        stored = Load(streams=32, responses=40, store=True)
        cases = {"plain": Case(server, load), "stored": Case(server, stored), "naive": Case(naive, load)}
        costs = _take_turns(cases, inference)
    plain, with_store, its = (costs[name].us_per_response for name in ("plain", "stored", "naive"))
    return [
        Row("a response of one token", f"{plain:.0f} us", f"naive {its:.0f}", f"{plain / its:.2f}x", "<= 300 us"),
        Row("  store: true", f"{with_store:.0f} us", "", f"{with_store - plain:+.0f} us", ""),
    ]


def memory_rows(folder: Path) -> list[Row]:
    """What an open stream holds."""
    before, held = 64, 960
    with antiphon(folder) as (server, _), loading(server, Load(streams=before, is_held=True)):
        start = server.memory_bytes()
        with loading(server, Load(streams=held, is_held=True)):
            kib = (server.memory_bytes() - start) / held / 1024
    return [Row("an open stream", f"{kib:.1f} KiB", f"of {held}", "", "<= 16 KiB")]


async def chain_rows(folder: Path) -> list[Row]:
    """What it takes to load the conversation before a response: in this process, as it is the store's alone."""
    depth, times = 100, 50
    with valkey(folder) as redis_url:
        client = open_client(redis_url)
        async with aclosing(client), _CountingBatcher(client, pipelines=4, timeout_s=5) as commands:
            store = ResponseStore(commands, retention_ms=3_600_000)
            last = await _save_chain(store, depth)
            took_ms, ping_ms = [], []
            before, cpu_s = commands.round_trips, 0.0
            for _ in range(times):
                start, cpu_start = time.perf_counter(), time.process_time()
                chain = await store.load_chain(_OWNER, last)
                assert len(list(chain.items())) == 2 * depth
                took_ms.append(1000 * (time.perf_counter() - start))
                cpu_s += time.process_time() - cpu_start
                start = time.perf_counter()
                await commands.execute(("PING",))
                ping_ms.append(1000 * (time.perf_counter() - start))
            round_trips = (commands.round_trips - before) / times - 1  # the ping
    return [
        Row("a chain 100 deep", f"{median(took_ms):.2f} ms", f"PING {median(ping_ms):.2f}", "", "<= 1 ms"),
        Row("  CPU of the edge", f"{1000 * cpu_s / times:.2f} ms", "", "", ""),
        Row("  round trips", f"{round_trips:.0f}", "", "", "<= 3"),
    ]


def _compare(name: str, cost: Cost, other_name: str, other: Cost, bar: str) -> Row:
    ratio = other.us_per_event / cost.us_per_event
    return Row(
        name, f"{cost.us_per_event:.1f} us/event", f"{other_name} {other.us_per_event:.1f}", f"{ratio:.1f}x less", bar
    )


def _per_token(cost: Cost, naive: Cost) -> Row:
    """The same for each token: a worker that is ahead of its stream joins tokens, and the edge has fewer events."""
    mine, its = (each.us_per_event * each.events_per_token for each in (cost, naive))
    events = f"{cost.events_per_token:.2f} events/token"
    return Row("  for each token", f"{mine:.1f} us/token", f"naive {its:.1f}", f"{its / mine:.1f}x less", events)


def _warm_up(server: Server) -> None:
    _run(Case(server, Load(streams=8, responses=10, tokens=20)), server)


def _take_turns(cases: Mapping[str, Case], inference: Server) -> dict[str, Cost]:
    """Medians of what each case costs."""
    costs: dict[str, list[Cost]] = {name: [] for name in cases}
    for _ in range(_ROUNDS):
        for name, case in cases.items():
            costs[name].append(_run(case, inference))
    return {name: Cost(*map(median, zip(*rounds, strict=True))) for name, rounds in costs.items()}


def _run(case: Case, inference: Server) -> Cost:
    server_us, worker_us = case.server.cpu_us(), inference.cpu_us()
    with loading(case.server, case.load) as result:
        server_us, worker_us = case.server.cpu_us() - server_us, inference.cpu_us() - worker_us
    return Cost(
        us_per_event=server_us / result.events,
        us_per_response=server_us / (case.load.streams * case.load.responses),
        events_per_token=result.events / result.tokens,
        worker_us_per_token=worker_us / result.tokens,
        tokens_per_s=result.tokens / result.wall_s,
        late_p99_ms=result.late_p99_ms,
    )


_OWNER = "bench"


class _CountingBatcher(CommandBatcher):
    """Counts round trips."""

    round_trips = 0

    async def execute(self, *commands: Command) -> list[Reply]:
        self.round_trips += 1
        return await super().execute(*commands)


async def _save_chain(store: ResponseStore, depth: int) -> str:
    """The last id of a chain of so many turns: a question of 10 words and an answer of 200 tokens each."""
    response_ids: list[str] = []
    for turn in range(depth):
        words = [f"word{(turn * 7 + place * place) % 997}" for place in range(200)]
        response_id = ids.new_response_id(ids.parse_response_id(response_ids[0]) if response_ids else None)
        question = content_pb2.ContentPart(input_text=content_pb2.InputText(text=" ".join(words[:10])))
        answer = content_pb2.OutputText(text=" ".join(words), token_ids=range(turn, turn + 200))
        item_ids = ids.ItemIds(response_id)
        record = ResponseRecord(input=[_message(item_ids, item_pb2.ROLE_USER, question)], ancestor_ids=response_ids)
        record.response.id = str(response_id)
        record.response.params.CopyFrom(with_defaults(response_pb2.ResponseParams(model=MODEL)))
        part = content_pb2.ContentPart(output_text=answer)
        record.response.output.append(_message(item_ids, item_pb2.ROLE_ASSISTANT, part))
        await store.save(_OWNER, record)
        response_ids.append(record.response.id)
    return response_ids[-1]


def _message(item_ids: ids.ItemIds, role: item_pb2.Role.ValueType, part: content_pb2.ContentPart) -> item_pb2.Item:
    message = item_pb2.Message(role=role, content=[part])
    return item_pb2.Item(id=item_ids.new(ids.ItemKind.MESSAGE), message=message)
