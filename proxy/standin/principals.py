"""Access keys and the principals behind them, and roles that can be assumed. No HTTP."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from proxy.standin.refusals import Kind, Refusal
from proxy.standin.settings import Role, StandInSettings


@dataclass(frozen=True, slots=True)
class AccessKey:
    """Long-lived, or with a session token for an assumed role; `arn` is who it stands for."""

    id: str
    secret: str
    arn: str
    session_token: str | None = None


class Principals:
    """The account's one user, and whoever assumed a role from there."""

    def __init__(self, settings: StandInSettings) -> None:
        user = AccessKey(
            settings.access_key_id,
            settings.secret_access_key,
            f"arn:aws:iam::{settings.account}:user/stand-in",
        )
        self._settings = settings
        self.keys = {user.id: user}
        self.roles = {role.arn: role for role in settings.roles}
        self.user = user

    def find(self, key_id: str) -> AccessKey:
        key = self.keys.get(key_id)
        if key is None:
            raise Refusal(Kind.CLIENT, "The security token included in the request is invalid.")
        return key

    def add_role(self, arn: str, external_id: str | None = None) -> None:
        self.roles[arn] = Role(arn, external_id)

    def assume(
        self, caller: AccessKey, arn: str, *, session: str, external_id: str | None
    ) -> AccessKey:
        """A new temporary key for the role; raises AccessDenied in STS's words."""
        role = self.roles.get(arn)
        if role is None or (role.external_id is not None and role.external_id != external_id):
            raise Refusal(
                Kind.DENIED,
                f"User: {caller.arn} is not authorized to perform: sts:AssumeRole "
                f"on resource: {arn}",
            )
        account, name = arn.split(":")[4], arn.rpartition("/")[2]
        key = AccessKey(
            self._settings.role_key_id + secrets.token_hex(8).upper(),
            self._settings.role_secret + secrets.token_urlsafe(30),
            f"arn:aws:sts::{account}:assumed-role/{name}/{session}",
            session_token=self._settings.session_token + secrets.token_urlsafe(120),
        )
        self.keys[key.id] = key
        return key
