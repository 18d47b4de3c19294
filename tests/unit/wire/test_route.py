from __future__ import annotations

import pytest

from dfs.errors import BadRequest, MethodNotAllowed, NotFound
from dfs.wire.message import Request, Response
from dfs.wire.route import Route, Router


def handler(request: Request) -> Response:
    return Response.empty(204)


def routes(*pairs: str) -> Router:
    return Router([Route(*pair.split(" "), handler, name=pair) for pair in pairs])  # type: ignore[arg-type]


ROUTER = routes(
    "GET /",
    "GET /files",
    "GET /files/{path+}",
    "PUT /files/{path+}",
    "GET /files/special",
    "GET /b/{name}",
    "GET /b/all",
)


@pytest.mark.parametrize(
    ("method", "path", "name", "params"),
    [
        ("GET", "/", "GET /", {}),
        ("GET", "/files", "GET /files", {}),
        ("HEAD", "/files", "GET /files", {}),
        ("GET", "/f%69les", "GET /files", {}),
        ("GET", "/files/a/b", "GET /files/{path+}", {"path": "a/b"}),
        ("GET", "/files/a%2Fb%2525", "GET /files/{path+}", {"path": "a/b%25"}),
        ("GET", "/files/", "GET /files/{path+}", {"path": ""}),
        ("GET", "/files//x/", "GET /files/{path+}", {"path": "/x/"}),
        ("GET", "/files/../x", "GET /files/{path+}", {"path": "../x"}),
        ("GET", "/files/special", "GET /files/special", {}),
        ("PUT", "/files/special", "PUT /files/{path+}", {"path": "special"}),
        ("GET", "/b/x%20y", "GET /b/{name}", {"name": "x y"}),
        ("GET", "/b/a%2Fb", "GET /b/{name}", {"name": "a/b"}),
        ("GET", "/b/all", "GET /b/all", {}),
    ],
)
def test_found(method: str, path: str, name: str, params: dict[str, str]) -> None:
    route, found = ROUTER.find(method, path)
    assert (route.name, found) == (name, params)


@pytest.mark.parametrize("path", ["//", "/x", "/files2", "/b", "/b/a/b", "/b/x/"])
def test_not_found(path: str) -> None:
    with pytest.raises(NotFound):
        ROUTER.find("GET", path)


def test_another_method_is_told_which_ones_there_are() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        ROUTER.find("OPTIONS", "/files/special")
    assert caught.value.headers == (("Allow", "GET, HEAD, PUT"),)


@pytest.mark.parametrize("path", ["/b/%", "/files/%zz", "/nowhere/%ff"])
def test_a_bad_escape_is_a_bad_request_everywhere(path: str) -> None:
    with pytest.raises(BadRequest):
        ROUTER.find("GET", path)


@pytest.mark.parametrize("pattern", ["x", "/{a+}/b", "/{A}", "/x{a}", "/{a"])
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        Router([Route("GET", pattern, handler)])


def test_two_routes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two routes"):
        routes("GET /a", "GET /a")


def test_a_head_route_of_its_own_wins() -> None:
    assert routes("GET /a", "HEAD /a").find("HEAD", "/a")[0].name == "HEAD /a"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/x", "GET /a/x"), ("/a/y", "GET /a/{p}"), ("/%61/y", "GET /a/{p}"), ("/b/x", "GET /{any}/x"), ("/%61/x", "GET /a/x"),
        ("/c/d/e", "GET /c/{rest+}"), ("/d", "GET /{all+}"), ("/a/y/z", "GET /{all+}"), ("/c", "GET /{all+}"), ("/", "GET /{all+}"),
    ],
)  # fmt: skip
def test_a_first_segment_that_is_known_hides_no_pattern(path: str, name: str) -> None:
    router = routes("GET /a/{p}", "GET /a/x", "GET /{any}/x", "GET /c/{rest+}", "GET /{all+}")
    assert router.find("GET", path)[0].name == name
