"""What one repository holds: blobs by digest, images by digest, tags. No HTTP, no disk.

The bytes of blobs are in `files`; a repository only knows which of them are its own (ECR.md:
a blob of A is a 404 in B).
"""

from __future__ import annotations

import fnmatch
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from proxy.oci import Digest
from proxy.standin.clock import Clock
from proxy.standin.image_rules import ImageFacts
from proxy.standin.refusals import Kind, Refusal, image_unknown


class Mutability(StrEnum):
    """The JSON API's `imageTagMutability`."""

    MUTABLE = "MUTABLE"
    IMMUTABLE = "IMMUTABLE"
    IMMUTABLE_WITH_EXCLUSION = "IMMUTABLE_WITH_EXCLUSION"
    MUTABLE_WITH_EXCLUSION = "MUTABLE_WITH_EXCLUSION"


@dataclass(slots=True)
class Lag:
    """Read-after-write: the first `reads` reads, and all reads before `until`, find nothing."""

    reads: int = 0
    until: float = 0.0

    def hides(self, clock: Clock) -> bool:
        """Whether this read finds nothing; counts the read."""
        if self.reads > 0:
            self.reads -= 1
            return True
        return self.until > clock.now()


@dataclass(slots=True)
class Blob:
    digest: Digest
    size: int
    pushed_at: float
    lag: Lag = field(default_factory=Lag)


@dataclass(slots=True)
class Image:
    """A stored manifest. Archived, it answers 404 until it is pushed again (ECR.md §5)."""

    digest: Digest
    content: bytes
    media_type: str
    facts: ImageFacts
    pushed_at: float
    archived: bool = False
    lag: Lag = field(default_factory=Lag)


class Repository:
    """Invariants: every tag names an image that is held; `_references` counts, for each digest,
    the images held that need it as a config or a layer."""

    def __init__(
        self,
        account: str,
        name: str,
        *,
        created_at: float,
        mutability: Mutability = Mutability.MUTABLE,
        exclusions: tuple[str, ...] = (),
        encryption: str = "AES256",
        kms_key: str | None = None,
        scan_on_push: bool = False,
        resource_tags: Mapping[str, str] | None = None,
    ) -> None:
        self.account = account
        self.name = name
        self.uid = uuid.uuid4().hex
        self.created_at = created_at
        self.mutability = mutability
        self.exclusions = exclusions
        self.encryption = encryption
        self.kms_key = kms_key
        self.scan_on_push = scan_on_push
        self.resource_tags = dict(resource_tags or {})
        self.blobs: dict[Digest, Blob] = {}
        self.images: dict[Digest, Image] = {}
        self.tags: dict[str, Digest] = {}
        self._references: Counter[Digest] = Counter()

    def is_referenced(self, digest: Digest) -> bool:
        """Whether an image held here has this blob as its config or a layer."""
        return self._references[digest] > 0

    def is_immutable(self, tag: str) -> bool:
        excluded = any(fnmatch.fnmatchcase(tag, pattern) for pattern in self.exclusions)
        match self.mutability:
            case Mutability.MUTABLE:
                return False
            case Mutability.IMMUTABLE:
                return True
            case Mutability.IMMUTABLE_WITH_EXCLUSION:
                return not excluded
            case Mutability.MUTABLE_WITH_EXCLUSION:
                return excluded

    def find_image(self, reference: str) -> Image | None:
        """By digest or tag, archived ones too."""
        digest = self.tags.get(reference)
        return self.images.get(digest if digest is not None else Digest(reference))

    def tags_of(self, digest: Digest) -> list[str]:
        return [tag for tag, held in self.tags.items() if held == digest]

    def check_tag(self, tag: str) -> None:
        """Refuse to move an immutable tag, be it to the digest it has already (§4)."""
        if tag in self.tags and self.is_immutable(tag):
            raise Refusal(
                Kind.TAG_IMMUTABLE,
                f"The image tag '{tag}' already exists in the '{self.name}' repository and cannot "
                "be overwritten because the tag is immutable.",
            )

    def put_image(self, image: Image, tag: str | None) -> None:
        """Store without any check; a re-push brings an archived image back."""
        held = self.images.get(image.digest)
        if held is None:
            self._references.update(image.facts.blobs)
            self.images[image.digest] = image
        else:
            held.archived = False
            held.pushed_at = image.pushed_at
        if tag is not None:
            self.tags[tag] = image.digest

    def delete_image(self, reference: str) -> None:
        """By digest with all its tags; by tag only the tag, unless it was the image's last one."""
        image = self.find_image(reference)
        if image is None:
            raise image_unknown()
        tags = self.tags_of(image.digest)
        if reference in self.tags and len(tags) > 1:
            del self.tags[reference]
            return
        parents = [
            held.digest for held in self.images.values() if image.digest in held.facts.children
        ]
        if parents:
            raise Refusal(
                Kind.REFERENCED, f"Requested image referenced by manifest list: {parents}"
            )
        for tag in tags:
            del self.tags[tag]
        del self.images[image.digest]
        self._references.subtract(image.facts.blobs)
