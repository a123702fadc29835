"""What every answerer of the registry API is given: the state, and the target of a request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proxy.oci import Digest
from proxy.standin.presign import Presigner
from proxy.standin.refusals import Kind, Refusal, parameter_text
from proxy.standin.state import State

# ECR's `imageTag`: up to 300 characters (ECR.md §4), more than the spec's 128.
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,299}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Context:
    """`s3_origin` gives host:port of the fake S3 for a client that used this Host header."""

    state: State
    presigner: Presigner
    s3_origin: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Target:
    """The variable parts of a path; those that its route does not have are empty."""

    name: str = ""
    reference: str = ""
    digest: str = ""
    upload: str = ""

    @classmethod
    def parse(cls, groups: Mapping[str, str]) -> Target:
        return cls(**groups)

    def check(self) -> None:
        """Refuse what is no tag and no digest (ECR.md §3: 400, for HEAD too)."""
        if ":" in self.reference:
            parse_digest(self.reference)
        elif self.reference and _TAG.fullmatch(self.reference) is None:
            raise Refusal(
                Kind.TAG_INVALID,
                parameter_text("imageTag", "must satisfy regular expression '[a-zA-Z0-9-_.]+'"),
            )
        if self.digest:
            parse_digest(self.digest)


def parse_digest(text: str) -> Digest:
    """A sha256 digest; whether ECR takes another algorithm is not known, so none is taken."""
    try:
        digest = Digest.parse(text)
    except ValueError as error:
        raise _digest_invalid() from error
    if digest.algorithm != "sha256":
        raise _digest_invalid()
    return digest


def _digest_invalid() -> Refusal:
    return Refusal(
        Kind.DIGEST_INVALID,
        parameter_text("digest", "must satisfy regular expression 'sha256:[a-f0-9]{64}'"),
    )
