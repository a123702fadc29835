"""The canaries: every kind of secret that the proxy meets, each with a value of its own.

What the stand-in issues are its defaults (`StandInSettings`), so they are in every test that has
one. The others are for tests to log in with, and to configure.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from proxy.standin import StandInSettings
from proxy.standin.settings import MARK

# The mark of a registry token, in a password that itself is base64.
TOKEN_MARK = base64.b64encode(MARK.encode()).decode()


@dataclass(frozen=True, slots=True)
class Canary:
    """A secret, or the part of one that is always the same. All of them have `MARK` in them."""

    name: str
    value: str

    @property
    def core(self) -> str:
        """The mark and what follows it: letters and digits, which no escaping changes."""
        for mark, length in ((MARK, len(MARK) + 6), (TOKEN_MARK, len(TOKEN_MARK) + 8)):
            at = self.value.find(mark)
            if at >= 0:
                return self.value[at : at + length]
        return self.value


_ISSUED = StandInSettings()

# What clients send to a proxy that asks for nothing: it must not go anywhere.
CLIENT_PASSWORD = f"{MARK}CPASSW/client+password/=="
CLIENT_TOKEN = f"{MARK}CTOKEN/client+token/=="
CLIENT_HEADERS = {
    "Authorization": "Basic " + base64.b64encode(f"client:{CLIENT_PASSWORD}".encode()).decode()
}
BEARER_HEADERS = {"Authorization": f"Bearer {CLIENT_TOKEN}"}
# What clients log in with, where the proxy asks for it.
HTPASSWD_PASSWORD = f"{MARK}HTPASS/htpasswd+password/=="
PROXY_TOKEN = f"ecp_{MARK}PTOKEN" + "A1-_" * 6 + "x"  # as `ecr-cache-proxy token` makes them
# What the proxy logs in with at registries that are not ECR.
REGISTRY_PASSWORD = f"{MARK}REGPWD/registry+password/=="
UPSTREAM_TOKEN = f"{MARK}UTOKEN/upstream+token/=="

CANARIES = (
    Canary("AWS access key id", _ISSUED.access_key_id),
    Canary("AWS secret access key", _ISSUED.secret_access_key),
    Canary("role's access key id", _ISSUED.role_key_id),
    Canary("role's secret access key", _ISSUED.role_secret),
    Canary("session token", _ISSUED.session_token),
    Canary("ECR token", base64.b64encode(_ISSUED.token_payload.encode()).decode()),
    Canary("presigned URL's key id", _ISSUED.url_key_id),
    Canary("presigned URL's session token", _ISSUED.url_session_token),
    Canary("presigned URL's signature", _ISSUED.url_signature),
    Canary("client's password", CLIENT_PASSWORD),
    Canary("client's bearer token", CLIENT_TOKEN),
    Canary("htpasswd password", HTPASSWD_PASSWORD),
    Canary("proxy token", PROXY_TOKEN),
    Canary("registry password", REGISTRY_PASSWORD),
    Canary("upstream bearer token", UPSTREAM_TOKEN),
)
