"""The tables of the settings file, key by key, and how a key is spelled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from proxy.config.values import (
    Action,
    PushMode,
    Rewrite,
    Show,
    parse_base_url,
    parse_host_name,
    parse_kms_key,
    parse_mutable_tags,
    parse_name_patterns,
    parse_path,
    parse_patterns,
    parse_resource_tags,
)


def kebab(name: str) -> str:
    """A key as flags spell it, and most often the file."""
    return name.replace("_", "-")


def split_names(value: object) -> object:
    """A list, which the environment has as one string with commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


_Url: TypeAlias = Annotated[str, BeforeValidator(parse_base_url)]


class PushTable(BaseModel):
    """The keys of `push.`, at the top of the settings file or in a `[[registry]]` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: PushMode | None = None


class NewRepositoriesTable(BaseModel):
    """A `[new-repositories]` table, at the top of the settings file or in a `[[registry]]`."""

    model_config = ConfigDict(extra="forbid", alias_generator=kebab, frozen=True)

    immutable_tags: bool = False
    mutable_tags: Annotated[tuple[str, ...], BeforeValidator(parse_mutable_tags)] = ()
    scan_on_push: bool = False
    kms_key: Annotated[str, BeforeValidator(parse_kms_key)] | None = None
    tags: Annotated[dict[str, str], BeforeValidator(parse_resource_tags)] = {}

    @model_validator(mode="after")
    def _exceptions_need_a_rule(self) -> NewRepositoriesTable:
        if self.mutable_tags and not self.immutable_tags:
            raise ValueError("mutable-tags are exceptions: they go with immutable-tags = true")
        return self


class Table(BaseModel):
    """A `[[registry]]` table of the settings file."""

    model_config = ConfigDict(extra="forbid", alias_generator=kebab, frozen=True)

    host: Annotated[str, BeforeValidator(parse_host_name)] | None = None
    url: _Url | None = None
    region: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    role_session_name: str | None = None
    endpoint: _Url | None = None
    api_endpoint: _Url | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: Annotated[Path, BeforeValidator(parse_path)] | None = None
    client_cert_file: Annotated[Path, BeforeValidator(parse_path)] | None = None
    client_key_file: Annotated[Path, BeforeValidator(parse_path)] | None = None
    redirect_hosts: tuple[str, ...] = ()
    rewrite: Rewrite | None = None
    show: Show | None = None
    push: PushTable | None = None
    create_repositories: bool | None = None
    new_repositories: NewRepositoriesTable | None = None

    @property
    def key(self) -> str:
        """What `--registry` calls it."""
        return self.host or self.url or ""


_Patterns: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(parse_patterns)]
_Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(parse_name_patterns)]


class RuleTable(BaseModel):
    """A `[[rule]]` table: who may do what, and where. A single pattern need not be a list."""

    model_config = ConfigDict(extra="forbid", alias_generator=kebab, frozen=True)

    users: _Patterns
    repositories: _Names
    registries: _Names = ("*",)
    allow: Annotated[tuple[Action, ...], BeforeValidator(split_names), Field(strict=False)]
