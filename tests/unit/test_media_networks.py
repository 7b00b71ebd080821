"""Where URLs may be fetched from."""

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import ApiError
from edge.media.networks import Networks, parse_networks

PUBLIC = Networks((), (80, 443))

PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::",
    "2002:a9fe:a9fe::1", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_no_address_that_is_not_public_is_allowed(address: str) -> None:
    assert not PUBLIC.allow(ipaddress.ip_address(address), 443)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "::ffff:1.1.1.1", "64:ff9b::101:101", "2606:4700::1111"]
)
def test_public_addresses_are_allowed_on_the_given_ports_alone(address: str) -> None:
    assert PUBLIC.allow(ipaddress.ip_address(address), 443)
    assert PUBLIC.allow(ipaddress.ip_address(address), 80)
    assert not PUBLIC.allow(ipaddress.ip_address(address), 6379)


def test_exceptions_hold_on_any_port_and_in_any_spelling() -> None:
    networks = Networks(parse_networks("10.1.0.0/16, fd00::/8 ,127.0.0.1"), (443,))
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::7", "127.0.0.1"):
        assert networks.allow(ipaddress.ip_address(address), 9000)
    for address in ("10.2.0.1", "127.0.0.2", "fc00::7"):
        assert not networks.allow(ipaddress.ip_address(address), 443)


@given(st.ip_addresses(v=4))
def test_embedding_an_ipv4_address_changes_nothing(address: ipaddress.IPv4Address) -> None:
    expected = PUBLIC.allow(address, 443)
    for prefix, shift in (("::ffff:0:0", 0), ("64:ff9b::", 0), ("2002::", 80)):
        embedded = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int(address) << shift)
        assert PUBLIC.allow(embedded, 443) == expected


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "file:///etc/passwd", "gopher://x/", "//example.com/", "example.com", "", "http://",
        "http://user@example.com/", "http://user:password@example.com/", "http://x:99999/", "http://[::1",
        "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://127.0.0.1./",
        "http://good.example\\@10.0.0.1/", "http://example.com/" + "x" * 9000,
    ],
)  # fmt: skip
def test_urls_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(ApiError):
        PUBLIC.check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "https://[::1]/", "http://[::ffff:7f00:1]/", "http://localhost/", "http://a.LOCALHOST./",
        "http://１２７.0.0.1/", "http://127。0。0。1/", "http://169.254.169.254/latest/meta-data", "http://1.1.1.1:22/",
    ],
)  # fmt: skip
def test_addresses_in_urls_are_judged_before_anything_is_asked(url: str) -> None:
    with pytest.raises(ApiError) as refusal:
        PUBLIC.check_url(url)
    assert "may fetch from" in refusal.value.message


def test_names_and_public_addresses_in_urls_pass() -> None:
    for url in (
        "https://example.com/a.png?b#c",
        "http://1.1.1.1/",
        "https://[2606:4700::1111]/x",
        "http://1password.com/",
    ):
        assert PUBLIC.check_url(url).host


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "everything", "10.0.0.0/8;::"])
def test_a_broken_list_of_networks_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_networks(text)
