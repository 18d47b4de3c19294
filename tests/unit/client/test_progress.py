from __future__ import annotations

import io

import pytest

from dfs.client.progress import Meter, format_seconds, render, terminal_width
from dfs.notation import format_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (102_300, "99.9 KiB"),
        (200 << 20, "200 MiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 70, "1048576 PiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (754, "12:34"), (10_800, "3:00:00")])
def test_times(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_line_with_bar_rate_and_time_left() -> None:
    line = render("a.jpg", 50 << 20, 200 << 20, 10 << 20, 100)
    assert line == "a.jpg  [==========                              ]   25%  50.0 MiB of 200 MiB  10.0 MiB/s  0:15 left"


def test_lines_for_what_is_not_known() -> None:
    assert render("-", 5 << 20, None, 1 << 20, 80) == "-  5.0 MiB  1.0 MiB/s"
    assert "-:-- left" in render("a", 0, 100, 0.0, 80)
    assert "100%" in render("a", 0, 0, 0.0, 80) and "0:00 left" in render("a", 0, 0, 0.0, 80)


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (60, "photo.jpg   50%  50.0 MiB of 100 MiB  10.0 MiB/s  0:05 left"),
        (40, "photo.jpg   50%  10.0 MiB/s"),
        (20, "photo.jpg   50%"),
        (10, " 50%"),
        (3, ""),
    ],
)
def test_a_narrow_terminal_gets_fewer_facts_not_half_ones(width: int, line: str) -> None:
    assert render("photo.jpg", 50 << 20, 100 << 20, 10 << 20, width) == line


def test_a_line_is_never_longer_than_the_terminal() -> None:
    for width in range(1, 120):
        for name in ("a", "n" * 100):
            for total in (None, 10**12):
                assert len(render(name, 10**9, total, 12345.0, width)) <= width


def test_it_is_drawn_ten_times_a_second_and_at_the_end() -> None:
    out = io.StringIO()
    now = [0.0]
    meter = Meter(out, "f", clock=lambda: now[0])
    for step in range(100):
        now[0] = step / 100
        meter.update(step, 100)
    meter.update(100, 100)
    assert 9 <= out.getvalue().count("\r") <= 12
    assert "100%" in out.getvalue().rpartition("\r")[2]
    meter.clear()
    meter.clear()
    assert out.getvalue().endswith("\r\x1b[K") and out.getvalue().count("\r") <= 13


def test_the_rate_is_that_of_the_last_seconds() -> None:
    out = io.StringIO()
    now = [0.0]
    meter = Meter(out, "f", clock=lambda: now[0])
    done = 0
    for step in range(40):
        now[0] = float(step)
        done += (1 << 20) if step < 20 else (4 << 20)
        meter.update(done, 1 << 40)
    assert "4.0 MiB/s" in out.getvalue().rpartition("\r")[2]


def test_going_back_begins_the_rate_anew() -> None:
    out = io.StringIO()
    now = [0.0]
    meter = Meter(out, "f", clock=lambda: now[0])
    for done in (0, 1000, 2000, 0):
        now[0] += 1
        meter.update(done, 5000)
    assert "0 B/s" in out.getvalue().rpartition("\r")[2]


def test_a_stream_without_a_terminal_is_80_wide() -> None:
    assert terminal_width(io.StringIO()) == 80
    with open("/dev/null", "w") as null:
        assert terminal_width(null) == 80
