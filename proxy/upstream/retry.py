"""When a request is repeated, and after how long.

No I/O but the pause itself; what may be repeated at all is the caller's decision.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from proxy.upstream.numbers import read_number
from proxy.upstream.values import Tuning

# 429: ECR's rates (ECR.md §4). 503: how S3 throttles (§3). The rest: an outage of a moment.
REPEATABLE: Final = frozenset({429, 500, 502, 503, 504})


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110 §10.2.3), None if it is none."""
    if value is None:
        return None
    if (seconds := read_number(value)) is not None:
        return float(seconds)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter for a year, or a zone, of many digits
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


class Repetitions:
    """The repetitions of one request: further and further apart, within one bound of time.

    They are few, as whoever asked can come again; those of a `patient` one are as many as that time
    has room for. `deadline` is by the loop's clock.
    """

    def __init__(self, tuning: Tuning, *, patient: bool = False) -> None:
        self.patient = patient
        self._tuning = tuning
        self._attempt = 1
        bound = tuning.push_patience if patient else tuning.patience
        self.deadline = asyncio.get_running_loop().time() + bound

    async def pause(self, asked: float | None = None, *, few: bool = False) -> bool:
        """Wait before the next attempt; False, at once, when there is to be none.

        `asked` is what upstream asked for. When that is beyond our patience the caller fails at
        once and hands it on to its client, rather than to come back too early. `few`: this failure
        may be an answer, so even patience does not try on and on.
        """
        if (few or not self.patient) and self._attempt >= self._tuning.attempts:
            return False
        # Past some doublings it is the cap that counts, and 2**n soon is no float any more.
        backoff = self._tuning.first_pause * 2 ** min(self._attempt - 1, 16)
        if self.patient:
            backoff = min(backoff, self._tuning.longest_pause)
        # Jitter, so that many requests that were throttled together do not come back together.
        seconds = backoff * random.uniform(0.5, 1.0)  # noqa: S311 no secret
        seconds = max(seconds, asked or 0.0)
        if asyncio.get_running_loop().time() + seconds > self.deadline:
            return False
        self._attempt += 1
        await asyncio.sleep(seconds)
        return True
