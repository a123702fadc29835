"""Who may do what: everyone everything, but for the denials (ECR.md §6)."""

from __future__ import annotations

import fnmatch

from proxy.standin.rates import Operation
from proxy.standin.refusals import denied
from proxy.standin.settings import Denial
from proxy.standin.tokens import ANONYMOUS

_READS = (Operation.BATCH_GET_IMAGE, Operation.GET_DOWNLOAD_URL, Operation.CHECK_LAYERS)


class Policy:
    """`denials` may be changed while the stand-in runs."""

    def __init__(self, region: str, denials: list[Denial]) -> None:
        self.denials = denials
        self._region = region

    def check(
        self, principal: str, operation: Operation, *, account: str, repository: str | None = None
    ) -> None:
        """Raise the IAM refusal if the principal may not; no repository means the registry."""
        action = f"ecr:{operation}"
        denials = [
            each
            for each in self.denials
            if fnmatch.fnmatchcase(action, each.action)
            and fnmatch.fnmatchcase(repository or "*", each.repository)
            and fnmatch.fnmatchcase(principal, each.principal)
        ]
        if denials or (principal == ANONYMOUS and operation not in _READS):
            raise denied(principal, action, self.resource(account, repository))

    def resource(self, account: str, repository: str | None) -> str:
        if repository is None:
            return "*"
        return f"arn:aws:ecr:{self._region}:{account}:repository/{repository}"
