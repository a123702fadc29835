"""ECR's operations, and how many of each a second it takes. Decides only; nothing waits here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from proxy.standin.clock import Clock
from proxy.standin.refusals import Kind, Refusal


class Operation(StrEnum):
    """The JSON API's operation behind each request; `ecr:` before it is the IAM action."""

    BATCH_GET_IMAGE = "BatchGetImage"
    GET_DOWNLOAD_URL = "GetDownloadUrlForLayer"
    CHECK_LAYERS = "BatchCheckLayerAvailability"
    INITIATE_UPLOAD = "InitiateLayerUpload"
    UPLOAD_PART = "UploadLayerPart"
    COMPLETE_UPLOAD = "CompleteLayerUpload"
    PUT_IMAGE = "PutImage"
    DELETE_IMAGE = "BatchDeleteImage"
    LIST_IMAGES = "ListImages"
    LIST_REFERRERS = "ListImageReferrers"
    DESCRIBE_IMAGES = "DescribeImages"
    DESCRIBE_REPOSITORIES = "DescribeRepositories"
    CREATE_REPOSITORY = "CreateRepository"
    GET_TOKEN = "GetAuthorizationToken"  # noqa: S105 an operation's name


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second, after a burst of so many at once."""

    per_second: float
    burst: float


# ECR.md §4 "Rates per second"; of the two pages about tokens (§2), the stricter.
ECR_RATES: Mapping[str, Rate] = {
    Operation.BATCH_GET_IMAGE: Rate(2000, 2000),
    Operation.GET_DOWNLOAD_URL: Rate(3000, 3000),
    Operation.CHECK_LAYERS: Rate(1000, 1000),
    Operation.INITIATE_UPLOAD: Rate(100, 100),
    Operation.UPLOAD_PART: Rate(500, 500),
    Operation.COMPLETE_UPLOAD: Rate(100, 100),
    Operation.PUT_IMAGE: Rate(10, 10),
    Operation.GET_TOKEN: Rate(20, 200),
}


class RateLimits:
    """A token bucket for each account and operation. Invariant: 0 ≤ level ≤ burst."""

    def __init__(self, rates: Mapping[str, Rate], clock: Clock) -> None:
        self.rates = dict(rates)
        self._clock = clock
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, account: str, operation: Operation) -> None:
        """Count one request; raises the throttling refusal when there are too many."""
        rate = self.rates.get(operation)
        if rate is None:
            return
        now = self._clock.now()
        level, since = self._buckets.get((account, operation), (rate.burst, now))
        level = min(rate.burst, level + max(0.0, now - since) * rate.per_second)
        if level < 1:
            self._buckets[account, operation] = (level, now)
            raise Refusal(Kind.THROTTLED, "Rate exceeded")
        self._buckets[account, operation] = (level - 1, now)
