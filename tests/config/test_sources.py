"""Which source of the settings wins, and what is taken when none gives a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.config import RegistrySettings, SettingsError, load_cache_settings
from proxy.sizes import Share
from tests.config.loading import ECR, OTHER_ECR, load


def test_a_registry_is_all_that_must_be_given() -> None:
    settings = load(registry=(ECR,))
    assert settings.registries == (RegistrySettings(name=ECR, ecr=True),)
    assert (settings.host, settings.port) == ("127.0.0.1", 5000)
    assert settings.cache_size == 20 * 1024**3
    assert settings.min_free == Share(fraction=0.01)
    assert settings.verify_rate == 4 * 1024**2
    assert settings.abandon_fills_below == 0
    assert settings.stale_if_error == 12 * 3600
    assert settings.shutdown_timeout == 30.0
    assert settings.log_level == "info"
    assert settings.proxies == {}


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    text = 'cache-size = "1GiB"\nlog-level = "error"\nshutdown-timeout = "1m"\n'
    monkeypatch.setenv("ECR_CACHE_PROXY_CACHE_SIZE", "2GiB")
    monkeypatch.setenv("ECR_CACHE_PROXY_LOG_LEVEL", "warning")
    settings = load(text, file, registry=(ECR,), cache_size="3GiB")
    assert settings.cache_size == 3 * 1024**3
    assert settings.log_level == "warning"
    assert settings.shutdown_timeout == 60.0
    assert settings.port == 5000


def spell_in_file(key: str) -> str:
    return "push.mode" if key == "push_mode" else key.replace("_", "-")


def test_every_setting_can_be_a_flag_a_variable_or_a_key(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    given: dict[str, Any] = {
        "listen": "127.0.0.1:7000",
        "cache_dir": "/var/tmp/x",
        "cache_size": "64MiB",
        "min_free": "5%",
        "verify_rate": "1MiB",
        "abandon_fills_below": "8MiB",
        "stale_if_error": "2h",
        "rewrite": "never",
        "show": "index",
        "push_mode": "write-through",
        "create_repositories": "true",
        "shutdown_timeout": "5s",
        "log_level": "debug",
        "insecure_no_client_auth": "true",
    }
    by_flag = load(**given | {"registry": (ECR,)})
    text = "".join(f'{spell_in_file(key)} = "{value}"\n' for key, value in given.items())
    by_file = load(text + f'registry = ["{ECR}"]\n', file)
    for key, value in (given | {"registry": ECR}).items():
        monkeypatch.setenv(f"ECR_CACHE_PROXY_{key.upper()}", value)
    by_variable = load()
    assert by_flag == by_file == by_variable
    assert by_flag != load(registry=(OTHER_ECR,))


def test_a_list_in_the_environment_has_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECR_CACHE_PROXY_REGISTRY", f"{ECR}, http://lan:5000,")
    assert [registry.name for registry in load().registries] == [ECR, "lan:5000"]


def test_an_empty_variable_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECR_CACHE_PROXY_LISTEN", "")
    monkeypatch.setenv("ECR_CACHE_PROXY_CONFIG", "")
    assert load(registry=(ECR,)).port == 5000


def test_the_environment_may_name_the_file(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    file.write_text(f'registry = ["{ECR}"]')
    monkeypatch.setenv("ECR_CACHE_PROXY_CONFIG", str(file))
    assert load().registries[0].name == ECR


def test_the_service_links_of_kubernetes_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT",
        "PORT_5000_TCP",
        "PORT_5000_TCP_ADDR",
        "PORT_5000_TCP_PORT",
        "PORT_5000_TCP_PROTO",
    ):
        monkeypatch.setenv(f"ECR_CACHE_PROXY_{name}", "tcp://10.0.0.1:5000")
    assert load(registry=(ECR,)).port == 5000


def test_forward_proxies_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://forward:3128")
    monkeypatch.setenv("NO_PROXY", "lan")
    assert load(registry=(ECR,)).proxies == {"https": "http://forward:3128", "no": "lan"}


def test_the_cache_of_a_user_is_where_caches_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert load(registry=(ECR,)).cache_dir == tmp_path / "home/.cache/ecr-cache-proxy"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert load(registry=(ECR,)).cache_dir == tmp_path / "home/.cache/ecr-cache-proxy"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert load(registry=(ECR,)).cache_dir == Path("/caches/ecr-cache-proxy")


def test_the_cache_of_root_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert load(registry=(ECR,)).cache_dir == Path("/var/cache/ecr-cache-proxy")


def test_a_path_in_the_file_is_relative_to_the_file(tmp_path: Path, file: Path) -> None:
    assert load('cache-dir = "cache"', file, registry=(ECR,)).cache_dir == tmp_path / "cache"


def test_a_path_of_a_flag_is_relative_to_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(cache_dir="cache", registry=(ECR,)).cache_dir == tmp_path / "cache"


def test_a_tilde_is_the_home_directory(tmp_path: Path, file: Path) -> None:
    assert load('cache-dir = "~/c"', file, registry=(ECR,)).cache_dir == tmp_path / "home/c"


def test_which_cache_it_is_needs_no_registry_and_is_settled_as_for_serve(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setenv("ECR_CACHE_PROXY_CACHE_SIZE", "2GiB")
    text = 'cache-dir = "cache"\ncache-size = "1GiB"\nmin-free = "3%"\n'
    served = load(text, file, registry=(ECR,))
    cache = load_cache_settings({"config": str(file)})
    assert cache.cache_dir == served.cache_dir == file.parent / "cache"
    assert cache.cache_size == served.cache_size == 2 * 1024**3
    assert cache.min_free == served.min_free == Share(fraction=0.03)
    assert load_cache_settings({}).cache_dir == load(registry=(ECR,)).cache_dir


def test_a_mistake_elsewhere_in_the_sources_is_one_for_the_cache_too(file: Path) -> None:
    file.write_text('lisden = "127.0.0.1:1"\n')
    with pytest.raises(SettingsError, match="did you mean listen"):
        load_cache_settings({"config": str(file)})
