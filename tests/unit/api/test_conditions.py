from __future__ import annotations

import uuid

import pytest

from dfs.api.conditions import Outcome, check_read, http_date, parse_tags, range_applies, write_condition
from dfs.errors import BadRequest, ConditionFailed
from dfs.wire.message import Headers

ID = str(uuid.uuid4())
TAG = f'"{ID}"'
AT = 784111777_500  # Sun, 06 Nov 1994 08:49:37.5 GMT
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"


def headers(**given: str) -> Headers:
    return Headers([(name.replace("_", "-"), value) for name, value in given.items()])


def test_dates() -> None:
    assert http_date(AT) == DATE


def test_tags() -> None:
    assert parse_tags("If-Match", []) is None
    anything = parse_tags("If-Match", [" * "])
    assert anything is not None and anything.strong() == anything.weak() == ("*",)
    several = parse_tags("If-Match", ['"a", W/"b"', '"c,d"', '""'])
    assert several is not None
    assert several.strong() == ("a", "c,d", "")
    assert several.weak() == ("a", "b", "c,d", "")


@pytest.mark.parametrize("value", ["", "a", '"a', 'a"', '"a" "b"', '"a",', ',"a"', '*, "a"', 'w/"a"', '"a\x7fb"', '"a b"'])
def test_tags_that_cannot_be_read(value: str) -> None:
    with pytest.raises(BadRequest, match="If-Match"):
        parse_tags("If-Match", [value])


def test_conditions_of_writes() -> None:
    assert write_condition(headers()).if_match is None
    assert write_condition(headers(If_Match=f'W/"x", {TAG}')).if_match == (ID,)
    assert write_condition(headers(If_Match='W/"x"')).if_match == ()
    assert write_condition(headers(If_None_Match="*")).if_none_match == ("*",)
    assert write_condition(headers(If_None_Match=f"W/{TAG}")).if_none_match == (ID,)
    for name in ("If_Unmodified_Since", "If_Modified_Since"):
        with pytest.raises(BadRequest, match="If-Match"):
            write_condition(headers(**{name: DATE}))


@pytest.mark.parametrize(
    "given",
    [{}, {"If_Match": TAG}, {"If_Match": "*"}, {"If_None_Match": '"x"'}, {"If_Modified_Since": BEFORE},
     {"If_Unmodified_Since": DATE}, {"If_Match": TAG, "If_Unmodified_Since": BEFORE},
     {"If_None_Match": '"x"', "If_Modified_Since": DATE}, {"If_Modified_Since": "x"}, {"If_Unmodified_Since": ""},
     {"If_Modified_Since": "Sun, 06 Nov 0000 08:49:37 GMT"}],
)  # fmt: skip
def test_reads_that_are_answered(given: dict[str, str]) -> None:
    assert check_read(headers(**given), ID, AT) is Outcome.SEND


@pytest.mark.parametrize(
    "given", [{"If_None_Match": TAG}, {"If_None_Match": f"W/{TAG}"}, {"If_None_Match": "*"}, {"If_Modified_Since": DATE}]
)
def test_reads_of_what_is_known(given: dict[str, str]) -> None:
    assert check_read(headers(**given), ID, AT) is Outcome.NOT_MODIFIED


@pytest.mark.parametrize("given", [{"If_Match": '"x"'}, {"If_Match": f"W/{TAG}"}, {"If_Unmodified_Since": BEFORE}])
def test_reads_that_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(ConditionFailed):
        check_read(headers(**given), ID, AT)


def test_the_three_forms_of_a_date() -> None:
    for form in (DATE, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"):
        assert check_read(headers(If_Modified_Since=form), ID, AT) is Outcome.NOT_MODIFIED
        assert check_read(headers(If_Modified_Since=form), ID, AT + 1000) is Outcome.SEND


def test_if_range() -> None:
    now = AT + 5000
    assert range_applies(headers(), ID, AT, now)
    assert range_applies(headers(If_Range=TAG), ID, AT, now)
    assert range_applies(headers(If_Range=DATE), ID, AT, now)
    assert not range_applies(headers(If_Range=DATE), ID, AT, AT + 999)
    for value in (f"W/{TAG}", '"x"', BEFORE, "x", "", f'{TAG}, "x"', '"x'):
        assert not range_applies(headers(If_Range=value), ID, AT, now)
