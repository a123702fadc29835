"""Whatever is wrong with a command is one line on stderr and exit code 2."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from proxy.cli import main
from tests.cli.process import finished

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"ecr-cache-proxy: [^\n]+\n", told.err)
    return told.err.removeprefix("ecr-cache-proxy: ").rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serv"], "No such command 'serv'. Did you mean 'serve'?; see ecr-cache-proxy --help"),
        (["serve", "--cache-siz", "1"], "No such option '--cache-siz'"),
        (["serve", "--listen"], "Option '--listen' requires an argument"),
        (["serve", "extra"], "Got unexpected extra argument (extra)"),
        (["serve"], "no registry is given"),
        (["serve", "--registry", ECR, "--cache-size", "20XB"], "--cache-size: '20XB' is no size"),
        (["serve", "--registry", ECR, "--config", "/nowhere"], "cannot read the settings file"),
        (["serve", "--registry", ECR, "--listen", ":5000"], "--listen: 0.0.0.0 is no loopback"),
        (["token"], "Missing argument 'USER'; see ecr-cache-proxy token --help"),
        (["token", "a:b"], "a user's name has no colon"),
        (
            ["serve", "--registry", "registry.example"],
            "registry.example is no ECR host; for another registry give its URL, https://registry",
        ),
        (["standin", "--listen", "0.0.0.0:5100"], "--listen: 0.0.0.0 is no loopback address"),
        (["standin", "--listen", "5100"], "--listen: '5100' is no address to listen on"),
        (["standin", "--repository", "App"], "--repository: 'App' is no repository name"),
        (["standin", "--dir", "/dev/null/x"], "cannot use /dev/null/x"),
        (["demo", "--listen", "10.0.0.1:5000"], "--listen: 10.0.0.1 is no loopback address"),
        (["cache", "rm", "sha256:1"], "'sha256:1' is no digest"),
        (["cache", "rm"], "Missing argument 'DIGEST...'; see ecr-cache-proxy cache rm --help"),
        (["cache", "prune"], "Missing option '--to'"),
        (["cache", "prune", "--to", "half"], "--to: 'half' is no size"),
        (["cache", "verify", "--rate", "fast"], "--rate: 'fast' is no size"),
        (["cache", "ls", "--config", "/nowhere"], "cannot read the settings file /nowhere"),
        (["rewrite"], "Missing option '--to'"),
        (["rewrite", "--to", "list"], "Invalid value for '--to': 'list' is not one of"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint(capsys, *arguments).startswith(told)


@pytest.mark.parametrize("command", ["serve", "demo", "standin"])
def test_an_address_in_use_is_named(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [command]
    if command == "serve":
        arguments += ["--registry", "http://127.0.0.1:9", "--cache-dir", str(tmp_path)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        told = complaint(capsys, *arguments, "--listen", address)
    assert address in told
    assert "--listen" in told


def test_a_cache_directory_that_cannot_be_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    arguments = ["serve", "--registry", "http://127.0.0.1:9", "--listen", "127.0.0.1:0"]
    assert str(file) in complaint(capsys, *arguments, "--cache-dir", str(file / "cache"))


@pytest.mark.parametrize("listen", ["0.0.0.0:5000", ":5000", "[::]:5000", "lan-cache:5000"])
def test_a_container_that_others_reach_does_not_start_without_authentication(listen: str) -> None:
    done = finished(["serve"], ECR_CACHE_PROXY_LISTEN=listen, ECR_CACHE_PROXY_REGISTRY=ECR)
    assert done.returncode == 2
    told = done.stderr.decode()
    assert told.startswith("ecr-cache-proxy: ECR_CACHE_PROXY_LISTEN: ")
    assert "is no loopback address, and clients are not authenticated" in told
    for way_out in ("--htpasswd-file", "--token-file", "--insecure-no-client-auth"):
        assert way_out in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "content", "told"),
    [
        ("--htpasswd-file", "alice:{SHA}x\n", ", line 1: this is SHA-1, and only bcrypt is taken"),
        ("--token-file", "\nci:ecp_secret\n", ", line 2: this is a token itself"),
        ("--token-file", None, "cannot read "),
    ],
)
def test_a_file_of_users_that_cannot_be_used_is_named(
    flag: str,
    content: str | None,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "users"
    if content is not None:
        path.write_text(content)
    arguments = ["serve", "--registry", "http://127.0.0.1:9", "--listen", "127.0.0.1:0"]
    arguments += ["--cache-dir", str(tmp_path / "cache"), flag, str(path)]
    complained = complaint(capsys, *arguments)
    assert told in complained
    assert str(path) in complained
    assert "ecp_secret" not in complained


def test_a_host_is_ecr_whatever_its_name_when_endpoint_and_region_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.toml"
    table = '[[registry]]\nhost = "ecr.example"\nendpoint = "http://127.0.0.1:9"\n'
    command = ["serve", "--config", str(file), "--cache-dir", "/dev/null"]
    file.write_text(table)
    assert "is no ECR host" in complaint(capsys, *command)
    file.write_text(f'{table}region = "eu-west-1"\n')
    assert "/dev/null" in complaint(capsys, *command)


@pytest.mark.parametrize(
    ("content", "told"), [(None, "No such file or directory"), ("x", "it holds no certificates")]
)
def test_a_bundle_that_holds_no_certificates_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None, told: str
) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    arguments = ("--registry", "http://127.0.0.1:1", "--cache-dir", str(tmp_path / "cache"))
    line = complaint(
        capsys, "serve", "--ca-bundle", str(bundle), "--listen", "127.0.0.1:0", *arguments
    )
    assert line.startswith(f"ca-bundle: cannot use {bundle}: {told}")


def test_no_command_prints_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("Usage: ecr-cache-proxy")


@pytest.mark.parametrize(
    "command",
    [
        *([], ["token"], ["htpasswd"]),
        *(["serve"], ["standin"], ["demo"], ["rewrite"], ["cache"]),
        *(["cache", name] for name in ("ls", "stats", "verify", "rm", "prune")),
    ],
)
def test_help_has_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert re.search(r"Examples:\n +ecr-cache-proxy ", capsys.readouterr().out)


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"ecr-cache-proxy \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_a_variable_that_is_unknown_stops_the_program() -> None:
    done = finished(["serve", "--registry", ECR], ECR_CACHE_PROXY_CACHE_SIZ="1GiB")
    assert done.returncode == 2
    assert done.stderr.startswith(b"ecr-cache-proxy: ECR_CACHE_PROXY_CACHE_SIZ: unknown variable")
    assert done.stderr.count(b"\n") == 1
