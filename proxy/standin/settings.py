"""Every switch of the stand-in, with defaults as strict as ECR is known to be.

Values only: nothing here acts. What a test changes while the stand-in runs lives in `state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1024 * 1024

# In each secret that the stand-in issues, and nowhere else: where one of them got to can be
# searched for. Six letters follow that say which it is.
MARK = "NOTASECRETQ7"


@dataclass(frozen=True, slots=True)
class Denial:
    """A policy that takes an action away; the three fields are shell patterns.

    `action` is one such as `ecr:PutImage`; `principal` is matched against the caller's ARN.
    """

    action: str
    repository: str = "*"
    principal: str = "*"


@dataclass(frozen=True, slots=True)
class Role:
    """A role that `sts:AssumeRole` hands out, to those who know its external id if it has one."""

    arn: str
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class StandInSettings:
    """How the stand-in behaves. Sizes are in bytes, times in seconds."""

    account: str = "123456789012"
    region: str = "eu-west-1"
    # One token serves them all (ECR.md §2). Each further account listens on a port of its own,
    # and answers to its own ECR host name on every port.
    further_accounts: tuple[str, ...] = ()
    public: bool = False  # ECR Public's ways: Bearer, HEAD of a blob 401, expired is 400 (§1)
    directory: Path | None = None  # kept and read again at the next start; None: a temporary one

    # Repositories (§5)
    repositories: tuple[str, ...] = ()  # exist at the start, in the first account
    create_on_push: tuple[str, ...] = ()  # prefixes of creation templates; "ROOT" takes any name
    unknown_repository_closes_socket: bool = False  # what a POST met before 2024
    mounting: bool = False  # the account setting BLOB_MOUNTING (§4)
    immutable_tags: bool = False
    immutable_exclusions: tuple[str, ...] = ()  # up to five patterns of tags that stay mutable
    denials: tuple[Denial, ...] = ()

    # Tokens and principals (§2)
    access_key_id: str = f"AKIA{MARK}KEYID0"
    secret_access_key: str = f"{MARK}AWSKEY/of/the+stand-in/for+ECR=="
    roles: tuple[Role, ...] = ()
    token_lifetime: float = 12 * 3600.0
    token_size: int = 4400  # characters of `authorizationToken`; over 4,096 were seen
    # How each of what is issued begins, before what tells it from others of its kind. The escapes
    # of URLs and of base64 are in there where ECR's and S3's have them.
    token_payload: str = f"{MARK}ECRTOK???>>>"  # in a registry token's JSON; three times n long
    role_key_id: str = f"ASIA{MARK}RIDROL"
    role_secret: str = f"{MARK}RKYROL/of/a+role=="
    session_token: str = f"IQoJb3JpZ2luX2VjE+/{MARK}STSTOK/of+a+session=="
    expired_token_status: int = 403  # "seen as 400 behind proxies"

    # Blobs and their URLs (§3)
    unreferenced_blob_status: int = 404  # of a GET; 200 hands such a blob out
    url_lifetime: float = 3600.0
    url_key_id: str = f"ASIA{MARK}URLKEY"
    url_session_token: str = f"IQoJb3JpZ2luX2VjE+/{MARK}TOKNS3/of+a+URL=="
    url_signature: str = f"{MARK}SIGNS3"
    expired_url_status: int = 403  # 403 AccessDenied, or 400 ExpiredToken
    s3_slow_down: bool = False  # every S3 request is answered 503 SlowDown
    s3_host: str | None = None  # host name in the redirect; None: one that differs, if it can be

    # Pushes (§4)
    check_layers: bool = True
    docker_layers_in_oci: bool = True  # not known to be refused; False refuses them
    put_digest_header: bool = True  # Docker-Content-Digest on a manifest PUT: not known either
    upload_verbs: bool = False  # GET and DELETE of an upload: not known either

    # Rates (§4): operation → requests a second, over ECR's own table
    rate_limits: bool = True
    rates: Mapping[str, float] = field(default_factory=dict)

    tags_page: int = 100
    lag_reads: int = 0  # a fresh manifest or blob answers 404 to so many reads (§5)
    lag_seconds: float = 0.0  # and for so long
    recorded_requests: int = 20_000  # how many requests are remembered
