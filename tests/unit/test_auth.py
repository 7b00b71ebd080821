"""API keys, limits files, and which addresses need keys."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import ApiError
from edge.auth import Authenticator, parse_api_keys
from edge.limits import OwnerLimits, parse_limits
from edge.settings import from_environment

DIGEST = sha256(b"key").hexdigest()


def authenticator(keys: str) -> Authenticator:
    return Authenticator(keys=keys, keys_file="", anonymous="default")


@given(keys=st.dictionaries(st.text(min_size=1), st.sampled_from(["alice", "bob@example.org"])), guess=st.text())
def test_a_key_belongs_to_its_owner_and_no_other_text_to_anybody(keys: dict[str, str], guess: str) -> None:
    known = parse_api_keys(",".join(f"{owner}:{sha256(key.encode()).hexdigest()}" for key, owner in keys.items()))
    for key, owner in keys.items():
        assert known.owner(key) == owner
    assert known.owner(guess) == keys.get(guess)
    assert known.owners == frozenset(keys.values())


def test_an_owner_has_several_keys_and_the_file_has_comments() -> None:
    text = f"# keys\n\nalice:{DIGEST} # old\n alice:{'0' * 64},bob:{'1' * 64}\r\n"
    keys = parse_api_keys(text)
    assert keys.owners == {"alice", "bob"}
    assert keys.owner("key") == "alice"


@pytest.mark.parametrize(
    "entry", ["sk-secret", "alice:sk-secret", f"a b:{DIGEST}", f":{DIGEST}", f"alice:{DIGEST}0", f"bob:{DIGEST}"]
)
def test_a_malformed_entry_is_named_by_its_line_and_never_shown(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^line 3: ") as caught:
        parse_api_keys(f"alice:{DIGEST}\n\n{entry}")
    assert entry not in str(caught.value)


def test_without_keys_everybody_is_one_owner_and_with_them_nobody_is() -> None:
    assert authenticator("").owner([]) == authenticator("").owner(["Bearer anything"]) == "default"
    with_keys = authenticator(f"alice:{DIGEST}")
    assert with_keys.owner(["Bearer key"]) == "alice"
    for wrong in ([], ["Bearer key", "Bearer key"], ["key"], ["Bearer kez"], ["Bearer default"]):
        with pytest.raises(ApiError, match=r"^INVALID_API_KEY"):
            with_keys.owner(wrong)
    with pytest.raises(ApiError):
        authenticator(",").owner([])


@pytest.mark.parametrize(
    ("name", "address", "is_open"),
    [
        ("HTTP", "127.0.0.1:0", True),
        ("HTTP", "[::1]:8080", True),
        ("HTTP", "localhost:8080", True),
        ("GRPC", "unix:/run/edge.sock", True),
        ("HTTP", "0.0.0.0:8080", False),
        ("HTTP", "[::]:8080", False),
        ("HTTP", ":8080", False),
        ("HTTP", "10.0.0.1:8080", False),
        ("HTTP", "localhost.example.org:8080", False),
        ("GRPC", "0.0.0.0:50051", False),
        ("GRPC", "dns:///edge:50051", False),
    ],
)
def test_what_others_can_reach_needs_keys_or_a_word(name: str, address: str, is_open: bool) -> None:
    listen = {f"EDGE_{name}_LISTEN": address, "EDGE_ALLOW_PLAINTEXT": "true"}
    from_environment(listen | {"EDGE_OPEN_ACCESS": "true"})
    from_environment(listen | {"EDGE_API_KEYS": f"alice:{DIGEST}"})
    from_environment(listen | {"EDGE_API_KEYS_FILE": "/run/keys"})
    if is_open:
        from_environment(listen)
        return
    with pytest.raises(ValueError, match=rf"^EDGE_{name}_LISTEN: .* EDGE_API_KEYS_FILE .* EDGE_OPEN_ACCESS=true"):
        from_environment(listen)


def test_keys_and_open_access_exclude_each_other_and_keys_are_checked_at_the_start() -> None:
    with pytest.raises(ValueError, match="EDGE_OPEN_ACCESS"):
        from_environment({"EDGE_API_KEYS": f"alice:{DIGEST}", "EDGE_OPEN_ACCESS": "true"})
    with pytest.raises(ValueError, match="EDGE_API_KEYS: line 1") as caught:
        from_environment({"EDGE_API_KEYS": "sk-secret"})
    assert "sk-secret" not in str(caught.value)


def test_what_is_not_said_of_an_owner_is_said_of_all() -> None:
    limits = parse_limits(
        "[default]\nrequests_per_minute = 60\nmax_running = 4\n[owners.alice]\nmax_running = 0\nresponse_ttl_s = 5"
    )
    assert limits.of("alice") == OwnerLimits(requests_per_minute=60, max_running=0, response_ttl_s=5)
    assert limits.of("bob") == OwnerLimits(requests_per_minute=60, max_running=4)
    assert parse_limits("").of("bob") == OwnerLimits()


@pytest.mark.parametrize(
    "text",
    [
        "[owners.alice]\nmax_runing = 1",
        "[defaults]",
        "[default]\nmax_running = -1",
        "[default]\nmax_running = '1'",
        "x",
    ],
)
def test_a_limits_file_that_says_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_limits(text)
