"""The names of ECR registries (ECR.md §1)."""

from __future__ import annotations

import pytest
from yarl import URL

from proxy.upstream import EcrHost, parse_host
from proxy.upstream.locations import HostPattern

IRELAND = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"


def leads_to(host: EcrHost, storage: str) -> bool:
    """Whether the registry may send us to a host; `{B}` is ECR's bucket of its region."""
    bucket = f"prod-{host.region}-starport-layer-bucket"
    url = URL(f"https://{storage.replace('{B}', bucket)}/x")
    return any(HostPattern(pattern).matches(url) for pattern in host.redirect_hosts)


def private(region: str, suffix: str, *, fips: bool = False, dualstack: bool = False) -> EcrHost:
    return EcrHost("123456789012", region, suffix, fips=fips, dualstack=dualstack, public=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            private("eu-west-1", "amazonaws.com"),
        ),
        (
            "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
            private("cn-north-1", "amazonaws.com.cn"),
        ),
        (
            "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com",
            private("us-gov-west-1", "amazonaws.com"),
        ),
        (
            "123456789012.dkr.ecr-fips.us-gov-east-1.amazonaws.com",
            private("us-gov-east-1", "amazonaws.com", fips=True),
        ),
        (
            "123456789012.dkr-ecr.us-west-2.on.aws",
            private("us-west-2", "on.aws", dualstack=True),
        ),
        (
            "123456789012.dkr-ecr-fips.us-east-1.on.aws",
            private("us-east-1", "on.aws", fips=True, dualstack=True),
        ),
        (
            "123456789012.dkr-ecr.cn-northwest-1.on.amazonwebservices.com.cn",
            private("cn-northwest-1", "on.amazonwebservices.com.cn", dualstack=True),
        ),
        (
            "123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu",
            private("eusc-de-east-1", "amazonaws.eu"),
        ),
        (
            "123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov",
            private("us-iso-east-1", "c2s.ic.gov"),
        ),
        (
            "123456789012.dkr.ecr.us-isob-east-1.sc2s.sgov.gov",
            private("us-isob-east-1", "sc2s.sgov.gov"),
        ),
        (
            "123456789012.dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk",
            private("eu-isoe-west-1", "cloud.adc-e.uk"),
        ),
        (
            "123456789012.dkr.ecr.us-isof-south-1.csp.hci.ic.gov",
            private("us-isof-south-1", "csp.hci.ic.gov"),
        ),
        (
            "123456789012.DKR.ECR.EU-West-1.AmazonAWS.com",
            private("eu-west-1", "amazonaws.com"),
        ),
    ],
)
def test_private_registry_says_where_it_is(name: str, expected: EcrHost) -> None:
    assert parse_host(name) == expected


@pytest.mark.parametrize("name", ["public.ecr.aws", "ecr-public.aws.com", "Public.ECR.aws"])
def test_public_registry_is_asked_in_one_region(name: str) -> None:
    host = parse_host(name)
    assert host is not None
    assert host.public
    assert host.region == "us-east-1"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "localhost:5000",
        "12345678901.dkr.ecr.eu-west-1.amazonaws.com",
        "1234567890123.dkr.ecr.eu-west-1.amazonaws.com",
        "123456789012.dkr.ecr..amazonaws.com",
        "123456789012.dkr.ecr.-west.amazonaws.com",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.org",
        "evil.example/123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "x123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com:443",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com\n",
        "١٢٣٤٥٦٧٨٩٠١٢.dkr.ecr.eu-west-1.amazonaws.com",
        "public.ecr.aws.evil.example",
    ],
)
def test_other_names_are_no_ecr(name: str) -> None:
    assert parse_host(name) is None


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        (IRELAND, "{B}.s3.eu-west-1.amazonaws.com"),
        (IRELAND, "{B}.s3-eu-west-1.amazonaws.com"),
        (IRELAND, "{B}.s3.amazonaws.com"),
        (IRELAND, "{B}.s3.dualstack.eu-west-1.amazonaws.com"),
        (IRELAND, "{B}.bucket.vpce-0e25b8cdd720f900e-argc85vg.s3.eu-west-1.vpce.amazonaws.com"),
        (
            "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
            "{B}.s3-fips.us-gov-west-1.amazonaws.com",
        ),
        (
            "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
            "{B}.s3-fips.dualstack.us-gov-west-1.amazonaws.com",
        ),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", "{B}.s3.dualstack.eu-west-1.amazonaws.com"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "{B}.s3.cn-north-1.amazonaws.com.cn"),
        ("123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov", "{B}.s3.us-iso-east-1.c2s.ic.gov"),
        ("public.ecr.aws", "d5l0dvt14r5h8.cloudfront.net"),
    ],
)
def test_ecrs_own_storage_is_known(name: str, storage: str) -> None:
    host = parse_host(name)
    assert host is not None
    assert leads_to(host, storage)


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        (IRELAND, "x.s3.amazonaws.com"),
        (IRELAND, "x.s3.eu-west-1.amazonaws.com"),
        (IRELAND, "s3.eu-west-1.amazonaws.com"),
        (IRELAND, "prod-eu-west-2-starport-layer-bucket.s3.eu-west-1.amazonaws.com"),
        (IRELAND, "prod-evil-starport-layer-bucket.s3.eu-west-1.amazonaws.com"),
        (IRELAND, "{B}.s3.eu-west-2.amazonaws.com"),
        (IRELAND, "{B}.s3.eu-west-1.amazonaws.com.cn"),
        (IRELAND, "{B}.s3.eu-west-1.amazonaws.com.evil.example"),
        (IRELAND, "{B}.s3.evil.example"),
        (IRELAND, "evil-{B}.s3.eu-west-1.amazonaws.com"),
        (IRELAND, "evil.{B}.s3.eu-west-1.amazonaws.com"),
        (IRELAND, "{B}.evil.execute-api.eu-west-1.amazonaws.com"),
        (IRELAND, "{B}.bucket.vpce-1.evil.s3.eu-west-1.vpce.amazonaws.com"),
        (IRELAND, "evil.eu-west-1.elb.amazonaws.com"),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", "evil.lambda-url.eu-west-1.on.aws"),
        ("public.ecr.aws", "x.s3.amazonaws.com"),
        ("public.ecr.aws", "evilcloudfront.net"),
        ("public.ecr.aws", "cloudfront.net"),
    ],
)
def test_nobody_elses_host_under_awss_suffixes_is(name: str, storage: str) -> None:
    host = parse_host(name)
    assert host is not None
    assert not leads_to(host, storage)


def test_a_partition_does_not_reach_into_another() -> None:
    china = parse_host("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn")
    assert china is not None
    assert all(pattern.endswith(".amazonaws.com.cn") for pattern in china.redirect_hosts)
