"""Every Redis key: its name, type and lifetime.

=====================================  ======  ======================================================================
``<owner>:resp:{<tag>}:<response id>``  string  ResponseRecord, serialized, one zstd frame. Lives for the retention,
                                               counted from its commit or from the last use of a chain it is in.
=====================================  ======  ======================================================================

The owner comes first and is part of every key: the id of another owner's response names a key that does not exist. The
only braces are those of the hash tag, so that all keys of a chain are in one slot of a cluster. What belongs to one
response is named ``<owner>:<what>:{<tag>}:<response id>``; keys that belong to no response start with a brace, which no
encoded owner does.
"""

from urllib.parse import quote

from store.ids import ResponseId


def response(owner: str, response_id: ResponseId) -> str:
    """String: the record of a response."""
    return _of_response(owner, "resp", response_id)


def _of_response(owner: str, what: str, response_id: ResponseId) -> str:
    return f"{_encode_owner(owner)}:{what}:{{{response_id.tag}}}:{response_id}"


def _encode_owner(owner: str) -> str:
    """``owner`` percent-encoded but for letters, digits, ``_``, ``.``, ``-`` and ``~``.

    Injective, and free of colons, braces and the special characters of SCAN patterns.

    Raises:
        ValueError: Empty, or not encodable as UTF-8.
    """
    if not owner:
        raise ValueError("an owner has a name")
    return quote(owner, safe="")
