"""What the name of an ECR registry says: account, region, partition, FIPS, dual-stack, public.

Pure: a name in, facts out. Source: ECR.md §1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# The name of the credentials helper's regular expression is kept piece by piece, with the region
# in lower case only: host names are compared in lower case.
_PRIVATE: Final = re.compile(
    r"(?P<account>\d{12})\.dkr(?P<joint>[.-])ecr(?P<fips>-fips)?\."
    r"(?P<region>[a-z0-9][a-z0-9_-]*)\."
    r"(?P<suffix>amazonaws\.(?:com(?:\.cn)?|eu)|on\.(?:aws|amazonwebservices\.com\.cn)"
    r"|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)",
    re.ASCII,
)
PUBLIC_HOSTS: Final = frozenset({"public.ecr.aws", "ecr-public.aws.com"})

# ECR Public answers its JSON API in one region for all (ECR.md §1).
PUBLIC_REGION: Final = "us-east-1"

# Where S3 lives, by the suffix of the registry: a dual-stack registry redirects to S3 under the
# partition's main suffix too.
_STORAGE: Final = {
    "on.aws": ("on.aws", "amazonaws.com", "amazonaws.eu"),
    "on.amazonwebservices.com.cn": ("on.amazonwebservices.com.cn", "amazonaws.com.cn"),
}


@dataclass(frozen=True, slots=True)
class EcrHost:
    """The facts in an ECR registry's name. `account` is empty for ECR Public."""

    account: str
    region: str
    suffix: str
    fips: bool
    dualstack: bool
    public: bool

    @property
    def redirect_hosts(self) -> tuple[str, ...]:
        """Patterns of the hosts that this registry hands its blobs out from."""
        if self.public:
            return ("*.cloudfront.net", "*.amazonaws.com")
        return tuple(f"*.{suffix}" for suffix in _STORAGE.get(self.suffix, (self.suffix,)))


def parse_host(host: str) -> EcrHost | None:
    """The facts in the name of an ECR registry, None for any other host. No port, any case."""
    host = host.lower()
    if host in PUBLIC_HOSTS:
        return EcrHost("", PUBLIC_REGION, host, fips=False, dualstack=False, public=True)
    match = _PRIVATE.fullmatch(host)
    if match is None:
        return None
    return EcrHost(
        account=match["account"],
        region=match["region"],
        suffix=match["suffix"],
        fips=match["fips"] is not None,
        dualstack=match["suffix"].startswith("on."),
        public=False,
    )
