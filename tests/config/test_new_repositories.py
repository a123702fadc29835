"""Where missing repositories may be created, and with what settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.config import NewRepositorySettings
from tests.config.loading import ECR, OTHER_ECR, load

LAN = "http://lan:5000"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def created(
    text: str | None = None, file: Path | None = None, **flags: Any
) -> list[NewRepositorySettings | None]:
    return [registry.new_repositories for registry in load(text, file, **flags).registries]


def test_nothing_is_created_unless_that_is_asked_for(file: Path) -> None:
    table = "[new-repositories]\nscan-on-push = true"
    assert created(table, file, registry=(ECR,)) == [None]


def test_ecr_alone_can_be_asked_for_a_repository() -> None:
    settings = created(registry=(ECR, LAN), create_repositories=True)
    assert settings == [NewRepositorySettings(), None]


def test_a_table_says_all_about_new_repositories(file: Path) -> None:
    text = f"""
        create-repositories = true
        [new-repositories]
        immutable-tags = true
        mutable-tags = ["cache*", "*-cache"]
        scan-on-push = true
        kms-key = "{KEY}"
        tags = {{team = "build", "cost centre" = ""}}
        """
    assert created(text, file, registry=(ECR,)) == [
        NewRepositorySettings(
            immutable_tags=True,
            mutable_tags=("cache*", "*-cache"),
            scan_on_push=True,
            kms_key=KEY,
            tags={"team": "build", "cost centre": ""},
        )
    ]


@pytest.mark.parametrize(
    "key",
    [
        "alias/aws/ecr",
        "1234abcd-12ab-34cd-56ef-1234567890ab",
        "mrk-1234abcd12ab34cd56ef1234567890ab",
    ],
)
def test_a_key_has_an_alias_or_an_id_as_well(key: str, file: Path) -> None:
    text = f'create-repositories = true\nnew-repositories.kms-key = "{key}"'
    (settings,) = created(text, file, registry=(ECR,))
    assert settings is not None
    assert settings.kms_key == key


def test_a_registrys_own_table_takes_the_place_of_the_one_at_the_top(file: Path) -> None:
    text = f"""
        create-repositories = true
        [new-repositories]
        immutable-tags = true
        mutable-tags = ["cache*"]
        [[registry]]
        host = "{ECR}"
        [registry.new-repositories]
        scan-on-push = true
        [[registry]]
        host = "{OTHER_ECR}"
        """
    assert created(text, file) == [
        NewRepositorySettings(scan_on_push=True),
        NewRepositorySettings(immutable_tags=True, mutable_tags=("cache*",)),
    ]


def test_a_registry_may_be_the_only_one_or_the_exception(file: Path) -> None:
    for top, own in ((False, True), (True, False)):
        text = f"""
            create-repositories = {str(top).lower()}
            [[registry]]
            host = "{ECR}"
            create-repositories = {str(own).lower()}
            [[registry]]
            host = "{OTHER_ECR}"
            """
        assert [settings is not None for settings in created(text, file)] == [own, top]


def test_a_flag_or_a_variable_goes_for_every_ecr_registry(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"""
        [[registry]]
        host = "{ECR}"
        create-repositories = false
        new-repositories.scan-on-push = true
        [[registry]]
        url = "{LAN}"
        """
    assert created(text, file) == [None, None]
    by_flag = created(text, file, create_repositories=True)
    assert by_flag == [NewRepositorySettings(scan_on_push=True), None]
    monkeypatch.setenv("ECR_CACHE_PROXY_CREATE_REPOSITORIES", "false")
    assert created(text.replace("= false", "= true"), file) == [None, None]
