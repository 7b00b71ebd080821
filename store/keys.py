"""Every Redis key: its name, type and lifetime.

=================================================  ======  ===========================================================
``<owner>:resp:{<tag>}:<response id>``             string  ResponseRecord, serialized, one zstd frame. Lives for the
                                                           retention, counted from its commit or from the last use of
                                                           a chain it is in; of a job that has not ended: as the job.
``<owner>:job:{<tag>}:<response id>``              hash    State of a logged response: see ``lua/job.lua``. Lives until
                                                           its end and the log's retention; never ended: a limit that
                                                           every append starts anew.
``<owner>:events:{<tag>}:<response id>``           stream  The log: EventBatch messages, each under the number after
                                                           its last event. Lives as the job.
``<owner>:reader:{<tag>}:<response id>``           string  Somebody reads the log. Lives for as long as a reader may be
                                                           away.
``<owner>:idempotency:<SHA-256 of the key>``       hash    Which response a client's key made: see ``lua/reserve.lua``.
                                                           Reserved: a short lease; confirmed: at most 24 hours.
``{<owner>}:stored``, ``:sizes``                   zset,   Which records are stored until when, and their bytes. Live
                                                   hash    as long as the youngest record.
``{<owner>}:rate``                                 string  Use of the request rate. Lives for a minute at most.
``{<owner>}:running``                              zset    Who runs, and until when it is vouched for. Lives as its
                                                           leases.
``{queue}:ready``, ``:owners``, ``:leases``,       zsets,  What waits, whose turn it is, who holds what until when: see
``:fences``, ``:clock``                            hashes  ``lua/queue.lua``. Hold only what has not ended; the clock,
                                                           three numbers, stays.
``{queue}:sweep``                                  string  A sweep began. Lives for the sweep's interval.
``{probe-<n>}``                                    string  Nothing: its server takes writes. Lives for a second.
=================================================  ======  ===========================================================

The owner is part of every key but the queue's and the probes': the id of another owner's response names a key that
does not exist. The only braces are those of the hash tag. All keys of a chain are in one slot of a cluster, as are all
of an owner's own, and all of the queue's, whose entries begin with the owner. An owner named ``queue`` shares its slot,
and no key.

Channels of PUBLISH, which only wake: the log's key for its readers, ``holder:<holder>`` for who runs jobs, and
``{queue}:wake`` for who would.
"""

from hashlib import sha256
from typing import Final
from urllib.parse import quote, unquote

from store.ids import ResponseId, parse_response_id

QUEUE: Final = ("{queue}:ready", "{queue}:owners", "{queue}:leases", "{queue}:fences", "{queue}:clock")
"""The keys of every script of the queue."""
SWEEP: Final = "{queue}:sweep"
"""String: somebody looks for jobs that the queue has lost."""

PROBES: Final = tuple(f"{{probe-{n}}}" for n in range(16))
"""Strings, spread over the nodes of a cluster: written to see whether that can be done."""

WAKE_CHANNEL: Final = "{queue}:wake"
"""Something is ready."""
HOLDER_CHANNEL: Final = "holder:"
"""And the holder's name: one of its responses was cancelled or deleted."""

ALL_JOBS: Final = "*:job:{*}:resp_*"
"""Pattern of SCAN."""


def response(owner: str, response_id: ResponseId) -> str:
    """String: the record of a response."""
    return _of_response(owner, "resp", response_id)


def job(owner: str, response_id: ResponseId) -> str:
    """Hash: how far a logged response is."""
    return _of_response(owner, "job", response_id)


def events(owner: str, response_id: ResponseId) -> str:
    """Stream: the log of a response."""
    return _of_response(owner, "events", response_id)


def reader(owner: str, response_id: ResponseId) -> str:
    """String: the log of a response is read."""
    return _of_response(owner, "reader", response_id)


def of_job(owner: str, response_id: ResponseId) -> tuple[str, str, str]:
    """The keys of every script of a job: job, log, record."""
    return (job(owner, response_id), events(owner, response_id), response(owner, response_id))


def log_channel(owner: str, response_id: ResponseId) -> str:
    """Channel: the log of a response has grown, or is gone."""
    return events(owner, response_id)


def idempotency(owner: str, key: str) -> str:
    """Hash: which response a client's Idempotency-Key made."""
    return f"{encode_owner(owner)}:idempotency:{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"


def of_owner(owner: str) -> tuple[str, str, str, str]:
    """The keys of every script of an owner: stored, sizes, rate, running."""
    tag = f"{{{encode_owner(owner)}}}"
    return (f"{tag}:stored", f"{tag}:sizes", f"{tag}:rate", f"{tag}:running")


def all_of(owner: str) -> str:
    """Pattern of SCAN: every key that begins with the owner, which is all but those of ``of_owner``."""
    return f"{encode_owner(owner)}:*"


def parse_job(key: str) -> tuple[str, ResponseId] | None:
    """Owner and response of the key of a job; None if it is no such key."""
    owner, _, rest = key.partition(":job:")
    response_id = parse_response_id(rest.rpartition(":")[2])
    return (unquote(owner), response_id) if response_id is not None else None


def encode_owner(owner: str) -> str:
    """``owner`` percent-encoded but for letters, digits, ``_``, ``.``, ``-`` and ``~``.

    Injective, and free of colons, braces and the special characters of SCAN patterns.

    Raises:
        ValueError: Empty, or not encodable as UTF-8.
    """
    if not owner:
        raise ValueError("an owner has a name")
    return quote(owner, safe="")


def _of_response(owner: str, what: str, response_id: ResponseId) -> str:
    return f"{encode_owner(owner)}:{what}:{{{response_id.tag}}}:{response_id}"
