"""JSON from strangers: nothing doubtful, nothing that cannot be stored or sent again."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from dfs.errors import BadRequest

_SURROGATE = re.compile(r"\\u[dD][89abABcdefCDEF]")


def _constant(text: str) -> NoReturn:
    raise BadRequest(f"the JSON body contains {text}, which is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise BadRequest("the JSON body contains a number out of range")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRequest("the JSON body contains a key twice in one object")
    return found


def parse_json(data: bytes) -> Any:
    """The value of `data`: strict UTF-8 JSON.

    Raises BadRequest for repeated keys, NaN, infinities (`1e999` too), integers of thousands of
    digits, lone surrogates, nesting beyond the interpreter's stack, and whatever is not JSON.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeError:
        raise BadRequest("the JSON body contains text that is not valid Unicode") from None
    except RecursionError:
        raise BadRequest("the JSON body nests too deeply") from None
    except ValueError:
        raise BadRequest("the body is not valid JSON") from None


def parse_json_object(data: bytes) -> dict[str, Any]:
    """`parse_json` of a body that must be one object."""
    value = parse_json(data)
    if not isinstance(value, dict):
        raise BadRequest("the JSON body must be an object")
    return value
