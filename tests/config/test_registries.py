"""What the settings say of registries, and where the proxy may listen."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import RegistrySettings, load_settings
from tests.config.loading import ECR, OTHER_ECR, load, refusal


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (ECR, RegistrySettings(name=ECR, ecr=True)),
        (ECR.upper(), RegistrySettings(name=ECR, ecr=True)),
        ("public.ecr.aws", RegistrySettings(name="public.ecr.aws", ecr=True)),
        ("http://lan:5000", RegistrySettings(name="lan:5000", url="http://lan:5000")),
        ("https://Lan.Example/", RegistrySettings(name="lan.example", url="https://lan.example")),
        ("https://lan:443", RegistrySettings(name="lan", url="https://lan")),
        ("http://lan:443", RegistrySettings(name="lan:443", url="http://lan:443")),
        ("http://[::1]:5000", RegistrySettings(name="[::1]:5000", url="http://[::1]:5000")),
    ],
)
def test_a_bare_host_is_ecr_and_a_url_any_registry(given: str, expected: RegistrySettings) -> None:
    assert load(registry=(given,)).registries == (expected,)


def test_a_table_says_all_about_a_registry(file: Path) -> None:
    (file.parent / "secret").write_text("p w\n")
    settings = load(
        f"""
        [[registry]]
        host = "{ECR}"
        region = "eu-west-2"
        profile = "ci"
        role-arn = "arn:aws:iam::123456789012:role/cache"
        external-id = "x"
        role-session-name = "runner"
        endpoint = "http://127.0.0.1:5100"
        api-endpoint = "http://127.0.0.1:5101"
        redirect-hosts = ["*.example"]
        rewrite = "always"
        show = "stored"

        [[registry]]
        url = "https://lan"
        username = "u"
        password-file = "secret"
        client-cert-file = "me.pem"
        client-key-file = "/keys/me.pem"
        """,
        file,
    )
    ecr, lan = settings.registries
    assert ecr == RegistrySettings(
        name=ECR,
        url="http://127.0.0.1:5100",
        ecr=True,
        api_url="http://127.0.0.1:5101",
        region="eu-west-2",
        profile="ci",
        role_arn="arn:aws:iam::123456789012:role/cache",
        external_id="x",
        role_session_name="runner",
        redirect_hosts=("*.example",),
        rewrite="always",
        show="stored",
    )
    assert (lan.username, lan.password, lan.ecr) == ("u", "p w", False)
    assert lan.client_cert_file == file.parent / "me.pem"
    assert lan.client_key_file == Path("/keys/me.pem")


def test_a_flag_chooses_registries_and_the_tables_say_how(file: Path) -> None:
    tables = f"""
        [[registry]]
        host = "{ECR}"
        profile = "one"
        [[registry]]
        url = "http://lan:5000"
        rewrite = "always"
        """
    assert [r.name for r in load(tables, file).registries] == [ECR, "lan:5000"]
    chosen = load(tables, file, registry=("http://LAN:5000/", OTHER_ECR)).registries
    assert [(r.name, r.rewrite) for r in chosen] == [("lan:5000", "always"), (OTHER_ECR, "auto")]
    assert load(tables, file, registry=(ECR,)).registries[0].profile == "one"


def test_names_and_tables_can_be_mixed_in_one_list(file: Path) -> None:
    text = f'registry = ["http://lan", {{host = "{ECR}", profile = "p"}}]'
    assert [(r.name, r.profile) for r in load(text, file).registries] == [
        ("lan", None),
        (ECR, "p"),
    ]


@pytest.mark.parametrize("key", ["rewrite", "show", "push_mode"])
def test_in_the_file_the_table_beats_the_top_level_and_a_flag_beats_both(
    key: str, file: Path
) -> None:
    top, table, flag = {
        "rewrite": ("always", "never", "auto"),
        "show": ("index", "stored", "auto"),
        "push_mode": ("write-through", "write-back", "write-through"),
    }[key]
    spelled = key.replace("_", ".")
    text = f"""
        {spelled} = "{top}"
        [[registry]]
        host = "{ECR}"
        {spelled} = "{table}"
        [[registry]]
        host = "{OTHER_ECR}"
        """
    assert [getattr(r, key) for r in load(text, file).registries] == [table, top]
    flags = {key: flag}
    assert [getattr(r, key) for r in load(text, file, **flags).registries] == [flag, flag]


def test_no_password_is_shown_by_repr(file: Path) -> None:
    text = '[[registry]]\nurl = "https://lan"\nusername = "u"\npassword = "hunter2"'
    settings = load(text, file)
    assert settings.registries[0].password == "hunter2"
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("127.0.0.2:0", ("127.0.0.2", 0)),
        ("localhost:5000", ("localhost", 5000)),
        ("[::1]:5000", ("::1", 5000)),
    ],
)
def test_a_loopback_address_needs_no_protection(listen: str, address: tuple[str, int]) -> None:
    settings = load(listen=listen, registry=(ECR,))
    assert (settings.host, settings.port) == address


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("0.0.0.0:5000", "0.0.0.0"),
        (":5000", "0.0.0.0"),
        ("[::]:5000", "::"),
        ("10.0.0.1:5000", "10.0.0.1"),
        ("localhost.example:5000", "localhost.example"),
    ],
)
def test_an_address_that_others_reach_is_refused_unless_that_is_accepted(
    listen: str, host: str
) -> None:
    told = refusal(listen=listen, registry=(ECR,))
    assert told.startswith(f"--listen: {host} is no loopback address")
    assert "--insecure-no-client-auth" in told
    assert load(listen=listen, registry=(ECR,), insecure_no_client_auth=True).host == host
    for way in ("htpasswd_file", "token_file"):
        settings = load_settings({"listen": listen, "registry": (ECR,), way: "users"})
        assert settings.host == host
        assert settings.authenticates


def test_a_rule_about_no_configured_registry_is_warned_of(file: Path) -> None:
    rules = """
[[rule]]
users = "*"
repositories = "*"
registries = "{}"
allow = []
"""
    asked = f'[[registry]]\nhost = "{ECR}"\n{rules}'
    (warning,) = load(asked.format(OTHER_ECR), file).warnings
    assert warning.startswith(f"{file}: rule 1: registries: no configured registry matches")
    assert load(asked.format("123456789012.*"), file).warnings == ()
    # Another proxy may know registries of any name.
    parent = '[[registry]]\nurl = "https://lan.example"\n'
    assert load(parent + asked.format(OTHER_ECR), file).warnings == ()
