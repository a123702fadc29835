"""What the name of an ECR registry says: account, region, partition, FIPS, dual-stack, public.

Pure: a name in, facts out. Source: ECR.md §1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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

# The suffix that S3 has in a registry's partition, where it is not the registry's own: dual-stack
# names of ECR have a suffix that S3's do not (AWS General Reference, "S3 endpoints").
_STORAGE: Final = {
    "on.aws": ("amazonaws.com", "amazonaws.eu"),
    "on.amazonwebservices.com.cn": ("amazonaws.com.cn",),
}
_SUFFIXES: Final = (
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "sc2s.sgov.gov",
    "c2s.ic.gov",
    "cloud.adc-e.uk",
    "csp.hci.ic.gov",
)


def storage_hosts(region: str, suffixes: Sequence[str] = _SUFFIXES) -> tuple[str, ...]:
    """Patterns of the hosts of ECR's own bucket in a region (ECR.md §3), and of no other one.

    Anybody can rent a name under AWS's suffixes, and a bucket; this bucket's name is taken.
    """
    bucket = f"prod-{region}-starport-layer-bucket"
    return tuple(
        f"{bucket}.{where}.{suffix}"
        for suffix in suffixes
        for where in (
            f"s3.{region}",
            f"s3-{region}",
            "s3",  # the partition's first region, once
            f"s3.dualstack.{region}",
            f"s3-fips.{region}",
            f"s3-fips.dualstack.{region}",
            f"bucket.vpce-*.s3.{region}.vpce",  # an interface endpoint of a VPC
        )
    )


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
            return ("*.cloudfront.net",)  # which of its names is not documented
        return storage_hosts(self.region, _STORAGE.get(self.suffix, (self.suffix,)))


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
