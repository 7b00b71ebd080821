"""The right to write one response, and what becomes of it."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from antiphon.store.v1.record_pb2 import ResponseRecord
from store import keys
from store.ids import ResponseId, parse_response_id

LONGEST_BACKOFF_MS: Final = 60_000
"""The longest that a job is put off."""


class LeaseLost(Exception):
    """Somebody else holds the job, or the response was deleted or has ended: the holder must stop at once."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A job held by one edge process until the lease runs out, and after that until somebody takes it."""

    owner: str
    response_id: ResponseId
    entry: str
    """The job's place in the queue."""
    holder: str
    """Who holds it: unique to the process and its start."""
    fence: int
    """Grows with every lease of the job. A writer with a lower one than the job's is refused."""
    attempts: int
    """Leases of this job in a row that brought it no token further, this one included, without those that were handed
    over. From 1."""
    next_sequence_number: int
    """Of the event that follows the log, as it was when the lease began."""
    is_cancelled: bool
    """The response is to be cancelled, as it was when the lease began."""

    @property
    def job_keys(self) -> tuple[str, str, str]:
        """Job, log and record."""
        return keys.of_job(self.owner, self.response_id)

    @property
    def log_channel(self) -> str:
        """Where readers of the log are woken."""
        return keys.log_channel(self.owner, self.response_id)


@dataclass(frozen=True, slots=True)
class HeldJob:
    """What a holder needs to run a job, or to go on with it after reading its log."""

    lease: Lease
    record: ResponseRecord
    """As it was created: the response in its first status, its input, its ancestors."""
    request: bytes
    """As it was created."""
    is_damaged: bool = False
    """The record cannot be read, and only has the response's id: all that can be done is to end it."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of a lease."""

    is_held: bool
    """False: the holder must stop at once."""
    is_cancelled: bool


def gap_ms(lease_ms: int) -> int:
    """How long all edges must be silent for that to be an outage: longer than they wait between two renewals (a third
    of a lease) or two looks at the queue (a quarter)."""
    return lease_ms // 2


def entry_of(owner: str, response_id: ResponseId, rank: int, created_at_ms: int) -> str:
    """A job's place in the queue: in byte order, entries of an owner come by rank (one digit) and then by time."""
    return f"{keys.encode_owner(owner)}:{rank}:{created_at_ms:013}:{response_id}"


def parse_entry(entry: str) -> tuple[str, ResponseId]:
    """Owner and response of an entry that ``entry_of`` made."""
    owner, _, _, text = entry.split(":")
    response_id = parse_response_id(text)
    assert response_id is not None
    return unquote(owner), response_id
