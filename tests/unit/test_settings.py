"""dfs.settings: parsing, precedence, refusals with sentences, and the closed list."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest

from dfs.errors import SettingsError
from dfs.notation import parse_public_url, parse_size, parse_time
from dfs.settings import (
    ROLES,
    ApiSettings,
    ClientSettings,
    CommonSettings,
    NodeSettings,
    child_environment,
    load,
    read_config,
    show,
    take_listen_fds,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("4096", 4096), ("4KiB", 4096), ("4k", 4096), ("1.5GiB", 3 << 29), ("96 MiB", 96 << 20),
        ("2TiB", 2 << 40), ("10MB", 10_000_000), (" 7 B ", 7),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1e3", "0x10", "4 XB", "KiB", "1.5.5M", "٤", "1_000", "9" * 19, "inf"])
def test_texts_that_are_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="a size such as"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("500ms", 0.5), ("15m", 900), ("24h", 86400), ("7d", 604800), ("1.5s", 1.5)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1", "1w", "nan", "m", "1 M", "٣"])
def test_texts_that_are_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="a time such as"):
        parse_time(text)


def test_the_seeds_names_and_defaults() -> None:
    api = load(ApiSettings, environ={})
    node = load(NodeSettings, environ={})
    assert (api.aws_region, api.chunk_metadata_table, api.node_registry_table) == (
        "us-east-1", "dfs-chunk-metadata", "dfs-node-registry"
    )  # fmt: skip
    assert (api.replication_factor, api.replication_strategy, api.replication_timeout) == (2, "sync", 30)
    assert (node.heartbeat_interval, node.heartbeat_timeout) == (30, 60)
    assert (node.node_id, node.node_port, node.node_private_ip, node.zone) == (None, None, None, None)
    assert (api.api_bind, api.api_port, api.metadata_url, api.paths_table) == (
        "127.0.0.1", 8080, "dynamodb://", "dfs-paths"
    )  # fmt: skip
    assert (api.chunk_size, api.max_chunk_size, api.max_chunks_per_file) == (4 << 20, 16 << 20, 131072)
    assert node.imds_endpoint == "http://169.254.169.254"
    assert node.imds_disabled is False
    assert load(ClientSettings, environ={}).api == "http://localhost:8080"


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    config = tmp_path / "dfs.env"
    config.write_text("# comment\n\nREPLICATION_FACTOR=3\nDFS_API_PORT = '81'\nDFS_API_BIND=\"::1\"\nAWS_REGION=eu-west-1\n")
    environ = {"DFS_API_PORT": "82", "AWS_REGION": ""}
    settings = load(ApiSettings, config=config, environ=environ, api_bind="127.0.0.9", public_url=None)
    assert settings.replication_factor == 3
    assert settings.api_port == 82
    assert settings.api_bind == "127.0.0.9"
    assert settings.aws_region == "eu-west-1", "an empty value counts as not set"


def test_the_process_environment_is_the_default_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFS_API", "http://files:1")
    assert load(ClientSettings).api == "http://files:1"


def test_a_misspelt_name_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="DFS_API_PROT is not a setting"):
        load(ApiSettings, environ={"DFS_API_PROT": "1"})


def test_another_roles_name_is_ignored() -> None:
    assert load(ApiSettings, environ={"DFS_VOLUME_SIZE": "nonsense", "NODE_ID": "-"})
    assert load(NodeSettings, environ={"DFS_API_PORT": "nonsense", "DFS_API": "x"})


@pytest.mark.parametrize(
    ("role", "name", "value", "allowed"),
    [
        (ApiSettings, "REPLICATION_FACTOR", "0", "a whole number from 1 to 16"),
        (ApiSettings, "REPLICATION_FACTOR", "two", "a whole number"),
        (ApiSettings, "REPLICATION_FACTOR", "٢", "a whole number"),
        (ApiSettings, "REPLICATION_STRATEGY", "fast", "one of sync, quorum, async"),
        (ApiSettings, "DFS_API_PORT", "65536", "a whole number from 0 to 65535"),
        (ApiSettings, "DFS_API_BIND", "localhost", "an IP address"),
        (ApiSettings, "DFS_PUBLIC_URL", "files.example.org", "a URL such as"),
        (ApiSettings, "DFS_METADATA_URL", "mysql://x", "dynamodb:// or sqlite:///PATH"),
        (ApiSettings, "DFS_METADATA_URL", "sqlite:///", "dynamodb:// or sqlite:///PATH"),
        (ApiSettings, "DFS_PATHS_TABLE", "no spaces", "a DynamoDB table name"),
        (ApiSettings, "DFS_CHUNK_SIZE", "1GiB", "a size from 1 to"),
        (ApiSettings, "DFS_CHUNK_SIZE", "big", "a size such as"),
        (ApiSettings, "REPLICATION_TIMEOUT", "0", "a time from 0.3"),
        (ApiSettings, "AWS_REGION", "Mars", "an AWS region"),
        (ApiSettings, "DFS_LOG_FORMAT", "xml", "one of text, json"),
        (NodeSettings, "NODE_ID", "-x", "1 to 64 of"),
        (NodeSettings, "NODE_ID", "a" * 65, "1 to 64 of"),
        (NodeSettings, "NODE_PORT", "-1", "a whole number"),
        (NodeSettings, "NODE_PRIVATE_IP", "999.1.1.1", "an IP address"),
        (NodeSettings, "DFS_ZONE", "a b", "a zone name"),
        (NodeSettings, "DFS_DATA_DIR", "a\0b", "a path without NUL"),
        (NodeSettings, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "https://x", "a URL such as"),
        (NodeSettings, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "x", "a URL such as"),
    ],
)
def test_a_bad_value_names_the_variable_the_value_and_what_is_allowed(
    role: type[CommonSettings], name: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(role, environ={name: value})
    assert str(refused.value).startswith(f"{name}={value!r} is not allowed: it must be {allowed}")


@pytest.mark.parametrize(
    ("role", "environ", "named"),
    [
        (NodeSettings, {"NODE_HEARTBEAT_TIMEOUT": "59"}, ("NODE_HEARTBEAT_TIMEOUT=59", "NODE_HEARTBEAT_INTERVAL=30")),
        (NodeSettings, {"DFS_BUFFER_BYTES": "31MiB"}, ("DFS_BUFFER_BYTES=", "DFS_MAX_CHUNK_SIZE=")),
        (NodeSettings, {"DFS_VOLUME_SIZE": "31MiB"}, ("DFS_VOLUME_SIZE=", "DFS_MAX_CHUNK_SIZE=")),
        (ApiSettings, {"DFS_NODE_TIMEOUT": "11"}, ("DFS_NODE_TIMEOUT=11", "REPLICATION_TIMEOUT=30")),
        (ApiSettings, {"DFS_CHUNK_SIZE": "17MiB"}, ("DFS_CHUNK_SIZE=", "DFS_MAX_CHUNK_SIZE=")),
    ],
)
def test_settings_that_contradict_each_other_are_both_named(
    role: type[CommonSettings], environ: dict[str, str], named: tuple[str, str]
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(role, environ=environ)
    for each in named:
        assert each in str(refused.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("REPLICATION_FACTOR\n", "line 1: expected KEY=value"),
        ("A=1\nlower=1\n", "line 2: expected KEY=value"),
        ("DFS_TYPO=1\n", "DFS_TYPO is not a setting of any role"),
        ("PATH=1\n", "PATH is not a setting of any role"),
    ],
)
def test_a_bad_config_file(tmp_path: Path, text: str, problem: str) -> None:
    config = tmp_path / "dfs.env"
    config.write_text(text)
    with pytest.raises(SettingsError, match=re.escape(f"--config {config}")) as refused:
        read_config(config)
    assert problem in str(refused.value)


def test_a_config_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_config(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_config(tmp_path / "binary")


@pytest.mark.parametrize("url", ["http://a", "https://a.example:1/", "http://[::1]:80", "http://10.0.0.1:65535"])
def test_public_urls(url: str) -> None:
    assert parse_public_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["ftp://a", "http://", "http://a:0", "http://a:99999", "http://a:x", "http://a/b", "http://a?b", "http://a#b",
     "http://u@a", "http://a b", "http://[::1", "a"],
)  # fmt: skip
def test_texts_that_are_no_public_url(url: str) -> None:
    with pytest.raises(ValueError, match="a URL such as"):
        parse_public_url(url)


@pytest.mark.parametrize(("text", "disabled"), [("true", True), ("TRUE", True), ("false", False), ("1", False)])
def test_ec2_metadata_can_be_switched_off_as_botocore_does(text: str, disabled: bool) -> None:
    assert load(NodeSettings, environ={"AWS_EC2_METADATA_DISABLED": text}).imds_disabled is disabled


def test_a_shown_line_has_the_value_and_its_meaning() -> None:
    lines = show(load(NodeSettings, environ={"NODE_ID": "a"})).splitlines()
    assert "NODE_ID=a  # name of the node; else node.json, else the EC2 instance id, else node-HOSTNAME" in lines
    assert any(line.startswith("NODE_PORT=  #") for line in lines)
    assert any(line.startswith("NODE_HEARTBEAT_INTERVAL=30  #") for line in lines)


def test_what_is_shown_can_be_read_back(tmp_path: Path) -> None:
    settings = load(ApiSettings, environ={"DFS_UPLOAD_TTL": "90m", "DFS_MAX_CHUNK_SIZE": "32MiB"})
    config = tmp_path / "shown"
    config.write_text("\n".join(line.split("  #")[0] for line in show(settings).splitlines()))
    assert load(ApiSettings, config=config, environ={}) == settings


def test_every_setting_has_one_name_a_meaning_and_an_acceptable_default() -> None:
    meanings: dict[str, str] = {}
    for role in ROLES:
        for field in dataclasses.fields(role):
            env, meaning = field.metadata["env"], field.metadata["help"]
            assert meanings.setdefault(env, meaning) == meaning
            assert meaning and not meaning.endswith(".")
            if field.default is not None and not isinstance(field.default, bool):
                assert field.metadata["parse"](str(field.default)) == field.default


@pytest.mark.parametrize(
    ("cpus", "buffer", "workers"),
    [(1, 96, 1), (2, 96, 2), (3, 96, 3), (16, 96, 3), (16, 1024, 4), (16, 32, 1), (16, 40, 1)],
)
def test_auto_is_a_worker_a_cpu_as_far_as_memory_goes(
    cpus: int, buffer: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cpus)), raising=False)
    environ = {"DFS_API_WORKERS": "auto", "DFS_BUFFER_BYTES": f"{buffer}MiB", "DFS_CACHE_BYTES": "8MiB"}
    settings = load(ApiSettings, environ=environ)
    assert settings.workers == workers
    one = settings.of_one_worker()
    assert (one.buffer_bytes, one.cache_bytes) == ((buffer << 20) // workers, (8 << 20) // workers)
    assert one.buffer_bytes >= 2 * one.max_chunk_size


def test_auto_is_one_worker_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert load(ApiSettings, environ={"DFS_API_WORKERS": "auto"}).workers == 1


@pytest.mark.parametrize("text", ["0", "65", "two", "-1", "AUTO"])
def test_what_is_no_number_of_workers(text: str) -> None:
    with pytest.raises(SettingsError, match=f"DFS_API_WORKERS='{text}' is not allowed: it must be auto or a whole number"):
        load(ApiSettings, environ={"DFS_API_WORKERS": text})


def test_more_workers_than_memory_allows_are_refused() -> None:
    with pytest.raises(SettingsError, match="DFS_BUFFER_BYTES=100663296 is divided among DFS_API_WORKERS=4"):
        load(ApiSettings, environ={"DFS_API_WORKERS": "4"})
    assert load(ApiSettings, environ={"DFS_API_WORKERS": "4", "DFS_MAX_CHUNK_SIZE": "12MiB"}).workers == 4


def test_sockets_meant_for_this_process_are_counted_once() -> None:
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http", "HOME": "/"}
    assert take_listen_fds(environ, pid=7) == 1
    assert environ == {"HOME": "/"}, "children must not take the sockets for their own"
    assert take_listen_fds(environ, pid=7) == 0


@pytest.mark.parametrize("environ", [{}, {"LISTEN_PID": "8", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "7"}])
def test_sockets_of_another_process_are_left_alone(environ: dict[str, str]) -> None:
    assert take_listen_fds(environ, pid=7) == 0


def test_a_count_of_sockets_that_is_no_number() -> None:
    with pytest.raises(SettingsError, match="LISTEN_FDS='one'"):
        take_listen_fds({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "one"})


def test_a_childs_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "dfs.env"
    config.write_text("DFS_ZONE=file\n")
    monkeypatch.setenv("NODE_ID", "mine")
    monkeypatch.setenv("DFS_API", "")
    made = child_environment(
        {"NODE_ID": "child"}, defaults={"DFS_ZONE": "d", "DFS_API": "d", "NODE_PORT": "0"}, config=config
    )
    assert made["NODE_ID"] == "child"
    assert made["DFS_API"] == "d", "an empty value counts as not set"
    assert "DFS_ZONE" not in made, "the config file sets it"
    assert child_environment({}, defaults={"NODE_ID": "d"})["NODE_ID"] == "mine"
