"""What ``EDGE_WORKERS`` may say, and the system's answers to it."""

import pytest

from edge.settings import from_environment
from edge.workers.discovery import Name, parse_targets, resolve


def test_targets_and_names_stand_beside_each_other() -> None:
    text = "127.0.0.1:50061, dns:///inference:50061,unix:/run/worker.sock,dns:///inference:50061,dns:///[::1]:7"
    assert parse_targets(text) == (
        ["127.0.0.1:50061", "unix:/run/worker.sock"],
        [Name("inference", 50061), Name("::1", 7)],
    )


@pytest.mark.parametrize(
    "text",
    ["", " , ", "dns:///inference", "dns:///:50061", "dns:///inference:0", "dns:///inference:70000", "dns:///a/b:1",
     "dns:///user@inference:1", "dns:///a..b:1"],
)  # fmt: skip
def test_what_names_no_worker_ends_the_start_with_the_variable_in_the_message(text: str) -> None:
    with pytest.raises(ValueError, match="EDGE_WORKERS: "):
        from_environment({"EDGE_WORKERS": text})


async def test_an_address_stands_for_itself() -> None:
    assert set(await resolve(Name("127.0.0.1", 50061))) == {"127.0.0.1:50061"}
    assert set(await resolve(Name("::1", 50061))) == {"[::1]:50061"}


async def test_a_worker_with_addresses_of_both_families_counts_once() -> None:
    assert set(await resolve(Name("localhost", 50061))) in ({"127.0.0.1:50061"}, {"[::1]:50061"})


async def test_a_name_that_does_not_exist_is_an_os_error() -> None:
    with pytest.raises(OSError, match=r"."):
        await resolve(Name("does-not-exist.invalid", 50061))
