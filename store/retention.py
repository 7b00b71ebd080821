"""How long records are kept."""

from collections.abc import Callable

Retention = int | Callable[[str], int]
"""The lifetime of a record after its last use, in milliseconds: of all owners, or by owner."""


def retention_ms_of(owner: str, retention: Retention) -> int:
    """That of ``owner``'s records."""
    return retention if isinstance(retention, int) else retention(owner)
