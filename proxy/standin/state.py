"""All that the stand-in knows, and what tests change behind everyone's back. No HTTP.

Checks that need more than one repository are here; those of one are in `repository`, those of a
manifest in `image_rules`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from proxy.oci import Digest, RepositoryName
from proxy.standin import records
from proxy.standin.clock import Clock
from proxy.standin.files import Files
from proxy.standin.image_rules import ImageFacts, read_image
from proxy.standin.policy import Policy
from proxy.standin.principals import Principals
from proxy.standin.rates import ECR_RATES, Rate, RateLimits
from proxy.standin.refusals import (
    Kind,
    Refusal,
    parameter_text,
    repository_unknown,
    upload_unknown,
)
from proxy.standin.repository import Blob, Image, Lag, Mutability, Repository
from proxy.standin.settings import StandInSettings
from proxy.standin.tokens import Tokens
from proxy.standin.uploads import Upload

# ECR.md §1, the part that names an account.
_ECR_HOST = re.compile(r"(\d{12})\.dkr[.\-]ecr(?:-fips)?\.[a-zA-Z0-9][a-zA-Z0-9\-_]*\.[a-z.\-]+")


class State:
    """Repositories by (account, name), tokens, principals, policy, time.

    Invariant: each blob of each repository has its file in `files`. Used on the event loop only.
    """

    def __init__(self, settings: StandInSettings) -> None:
        self.settings = settings
        self.accounts = (settings.account, *settings.further_accounts)
        self.clock = Clock()
        self.files = Files(settings.directory)
        self.tokens = Tokens(
            records.load_secret(self.files) if self.files.is_kept else secrets.token_bytes(32),
            self.clock,
            lifetime=settings.token_lifetime,
            size=settings.token_size,
            payload=settings.token_payload,
        )
        self.principals = Principals(settings)
        self.policy = Policy(settings.region, list(settings.denials))
        rates = dict(ECR_RATES) if settings.rate_limits else {}
        rates |= {name: Rate(value, max(1.0, value)) for name, value in settings.rates.items()}
        self.rates = RateLimits(rates, self.clock)
        self.page_secret = secrets.token_bytes(32)  # a `last` is good for this process
        self.lag_reads = settings.lag_reads
        self.lag_seconds = settings.lag_seconds
        self.mounting = settings.mounting
        self.s3_slow_down = settings.s3_slow_down
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.uploads: dict[str, Upload] = {}
        if self.files.is_kept:
            for repository in records.load(self.files):
                self.repositories[repository.account, repository.name] = repository
        for name in settings.repositories:
            if (settings.account, name) not in self.repositories:
                self.create_repository(name)

    # Accounts and repositories

    def account_of(self, host: str) -> str | None:
        """The account that a Host header names, if it is one of ours."""
        match = _ECR_HOST.fullmatch(host.partition(":")[0])
        return match[1] if match is not None and match[1] in self.accounts else None

    def host_of(self, account: str) -> str:
        if self.settings.public:
            return "public.ecr.aws"
        return f"{account}.dkr.ecr.{self.settings.region}.amazonaws.com"

    def find_repository(self, name: str, account: str | None = None) -> Repository | None:
        return self.repositories.get((account or self.settings.account, name))

    def repository(self, name: str, account: str | None = None) -> Repository:
        """The repository, or ECR's refusal."""
        repository = self.find_repository(name, account)
        if repository is None:
            raise repository_unknown(account or self.settings.account, name)
        return repository

    def repository_for_push(self, name: str, account: str) -> Repository:
        """The same, but made on the spot where a creation template's prefix matches (§5)."""
        repository = self.find_repository(name, account)
        if repository is None and any(
            prefix in ("", "ROOT") or name == prefix or name.startswith(prefix.rstrip("/") + "/")
            for prefix in self.settings.create_on_push
        ):
            return self.create_repository(name, account)
        return self.repository(name, account)

    def create_repository(
        self,
        name: str,
        account: str | None = None,
        *,
        mutability: Mutability | None = None,
        exclusions: tuple[str, ...] | None = None,
        encryption: str = "AES256",
        kms_key: str | None = None,
        scan_on_push: bool = False,
        resource_tags: Mapping[str, str] | None = None,
    ) -> Repository:
        """Make a repository; tag mutability is as the settings say unless given."""
        account = account or self.settings.account
        check_name(name)
        if (account, name) in self.repositories:
            raise Refusal(
                Kind.REPOSITORY_EXISTS,
                f"The repository with name '{name}' already exists in the registry with id "
                f"'{account}'",
            )
        if exclusions is None:
            exclusions = self.settings.immutable_exclusions
        if mutability is None and self.settings.immutable_tags:
            mutability = Mutability.IMMUTABLE_WITH_EXCLUSION if exclusions else Mutability.IMMUTABLE
        repository = Repository(
            account,
            name,
            created_at=self.clock.now(),
            mutability=mutability or Mutability.MUTABLE,
            exclusions=exclusions,
            encryption=encryption,
            kms_key=kms_key,
            scan_on_push=scan_on_push,
            resource_tags=resource_tags,
        )
        self.repositories[account, name] = repository
        self.save(repository)
        return repository

    def save(self, repository: Repository) -> None:
        """Write the repository down, if there is a directory to keep it in."""
        if self.files.is_kept:
            records.save(self.files, repository)

    # Blobs and images, straight in and out

    def put_blob(self, name: str, content: bytes | Path, account: str | None = None) -> Digest:
        """Put a blob into a repository, which is made if need be; a file is moved in."""
        repository = self.find_repository(name, account) or self.create_repository(name, account)
        if isinstance(content, Path):
            with content.open("rb") as file:
                digest = records.digest_of(file)
            size = content.stat().st_size
            self.files.adopt(content, digest)
        else:
            digest, size = Digest.of(content), len(content)
            self.files.write(content, digest)
        repository.blobs[digest] = Blob(digest, size, self.clock.now())
        return digest

    def put_manifest(
        self,
        name: str,
        content: bytes,
        media_type: str,
        tag: str | None = None,
        account: str | None = None,
    ) -> Digest:
        """Put a manifest into a repository with no check at all, and no lag."""
        repository = self.find_repository(name, account) or self.create_repository(name, account)
        try:
            facts = read_image(content, media_type)
        except Refusal:  # what ECR would never have stored may still be what a test is about
            facts = ImageFacts()
        digest = Digest.of(content)
        repository.put_image(Image(digest, content, media_type, facts, self.clock.now()), tag)
        self.save(repository)
        return digest

    def delete_blob(self, name: str, digest: str, account: str | None = None) -> None:
        """Take a blob away behind everyone's back, be it referenced or not."""
        self.repository(name, account).blobs.pop(Digest(digest), None)
        if not any(digest in held.blobs for held in self.repositories.values()):
            self.files.remove(Digest(digest))

    def archive(self, name: str, reference: str, account: str | None = None) -> None:
        """Archive an image: 404 until it is pushed again."""
        image = self.repository(name, account).find_image(reference)
        if image is not None:
            image.archived = True

    def fresh_lag(self) -> Lag:
        """The lag of what is stored right now."""
        return Lag(self.lag_reads, self.clock.now() + self.lag_seconds if self.lag_seconds else 0.0)

    def expire_tokens(self) -> None:
        """Every token handed out so far has expired."""
        self.tokens.expire_all()

    # Uploads

    def start_upload(self, repository: Repository) -> Upload:
        upload = Upload(repository.account, repository.name, self.files.uploads)
        self.uploads[upload.id] = upload
        return upload

    def upload(self, repository: Repository, upload_id: str) -> Upload:
        upload = self.uploads.get(upload_id)
        if upload is None or (upload.account, upload.name) != (
            repository.account,
            repository.name,
        ):
            raise upload_unknown(repository.account, repository.name, upload_id)
        return upload

    def end_upload(self, upload: Upload) -> None:
        """Forget an upload, and its bytes unless they were adopted."""
        self.uploads.pop(upload.id, None)
        upload.path.unlink(missing_ok=True)

    def close(self) -> None:
        for repository in self.repositories.values():
            self.save(repository)
        self.files.close()


def check_name(name: str) -> RepositoryName:
    """ECR's own grammar and length (§5)."""
    try:
        # ECR wants two characters at least; the spec has no lower bound.
        return RepositoryName.parse(name if len(name) > 1 else "")
    except ValueError as error:
        pattern = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
        raise Refusal(
            Kind.NAME_INVALID,
            parameter_text("repositoryName", f"must satisfy regular expression '{pattern}'"),
        ) from error
