from __future__ import annotations

import pytest

from dfs.client.endpoint import Endpoint, parse_endpoints
from dfs.errors import SettingsError


def test_several_urls_are_kept_in_order_and_once() -> None:
    found = parse_endpoints(" http://b:8080/, http://a ,http://b:8080,")
    assert found == (Endpoint("http://b:8080", "b", 8080), Endpoint("http://a", "a", 80))


def test_an_ipv6_address_loses_its_brackets() -> None:
    assert parse_endpoints("http://[::1]:9000")[0].host == "::1"


@pytest.mark.parametrize("text", ["", " , ", "localhost:8080", "ftp://a", "http://a/x", "http://a:99999", "http://u@a"])
def test_what_names_no_server_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="API server"):
        parse_endpoints(text)


def test_https_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="http only"):
        parse_endpoints("https://a")
