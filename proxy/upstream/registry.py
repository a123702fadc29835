"""One configured upstream registry, and how it is put together from its configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from yarl import URL

from proxy.errors import Unsupported
from proxy.events import Events
from proxy.oci import Digest, RepositoryName
from proxy.peer import PEER_HEADER
from proxy.refusals import Refusals
from proxy.singleflight import SingleFlight
from proxy.upstream.auth import Authorizer, basic
from proxy.upstream.aws import Aws
from proxy.upstream.bearer import Bearer
from proxy.upstream.blobs import BlobCalls
from proxy.upstream.client import Call, Client
from proxy.upstream.ecr import private_source, public_credentials
from proxy.upstream.ecr_api import EcrApi
from proxy.upstream.errors import Kind
from proxy.upstream.hosts import PUBLIC_HOSTS, EcrHost, parse_host, storage_hosts
from proxy.upstream.limits import ECR_RATES, Limits
from proxy.upstream.listings import ListingCalls
from proxy.upstream.locations import check_patterns, is_safe
from proxy.upstream.manifests import ManifestCalls
from proxy.upstream.tokens import TokenKeeper
from proxy.upstream.transport import Transport
from proxy.upstream.trust import Trust
from proxy.upstream.uploads import UploadCalls
from proxy.upstream.values import BlobState, NewRepositories, RegistryConfig, Tuning

# A multiple of what ECR demands of a part, and how it cuts streams itself (ECR.md §4).
PART_SIZE: Final = 10 * 1024 * 1024


class Registry(ManifestCalls, BlobCalls, UploadCalls, ListingCalls):
    """Everything that can be asked of one registry; raises `RegistryError` and nothing else.

    `name` is the host that clients address it by, `is_ecr` whether it is ECR, private or public.
    """

    part_size: Final = PART_SIZE

    def __init__(
        self,
        name: str,
        client: Client,
        *,
        is_ecr: bool,
        is_public: bool,
        aws: Aws | None,
        api: EcrApi | None,
        new_repositories: NewRepositories | None,
        tuning: Tuning,
    ) -> None:
        self.name = name
        self.is_ecr = is_ecr
        self._client = client
        self._is_public = is_public
        self._aws = aws
        self._api = api
        self._new_repositories = new_repositories
        self._tuning = tuning
        self._peer: bool | None = None
        self._questions: SingleFlight[str, bool] = SingleFlight()

    @property
    def peer(self) -> bool | None:
        """What is known of `is_peer` without asking; None until upstream has answered once."""
        return self._peer

    @property
    def can_batch(self) -> bool:
        """Whether there is `check_blobs` here: in private ECR, and nowhere else."""
        return self._api is not None

    @property
    def creates_repositories(self) -> bool:
        """Whether `create_repository` may be called."""
        return self._api is not None and self._new_repositories is not None

    async def check_blobs(
        self, repository: RepositoryName, digests: Iterable[Digest], *, patient: bool = False
    ) -> Mapping[Digest, BlobState]:
        """Which blobs the repository holds, as far as upstream decided: the rest is left out.

        A call for each 100 of them. Raises `NameUnknown`; `Denied` where the principal lacks the
        permission; `Unsupported` unless `can_batch`; or what else kept upstream from deciding.
        `patient`: it is asked for a push, which waits out trouble.
        """
        if self._api is None:
            raise Unsupported(f"{self.name} cannot be asked for many blobs at once")
        return await self._api.check_blobs(repository, digests, patient=patient)

    async def create_repository(self, repository: RepositoryName) -> None:
        """Create it as it is configured, for a push; that it is there already is as good.

        Raises `Denied`, `Unsupported` unless `creates_repositories`, or upstream's refusal.
        """
        if self._api is None or self._new_repositories is None:
            raise Unsupported(f"the proxy is not configured to create repositories in {self.name}")
        await self._api.create_repository(repository, self._new_repositories)

    async def ping(self) -> None:
        """Raise unless upstream answers, and takes our credentials."""
        await self._ask_peer()

    async def is_peer(self) -> bool:
        """Whether upstream is a proxy of our own kind; learnt from its first answer, for good."""
        if self._peer is None:
            return await self._questions.do("peer", self._ask_peer)
        return self._peer

    @property
    def is_down(self) -> bool:
        """Whether it does not answer: until it does, whatever is asked fails at once or waits."""
        return self._client.is_down

    def credentials_problem(self) -> str | None:
        """Why no credentials can be had right now, None if all is well. Asks nobody."""
        return self._client.problem()

    async def close(self) -> None:
        """Drop what is under way, and every connection. Nothing may be asked afterwards."""
        await self._questions.close()
        await self._client.close()
        if self._aws is not None:
            await self._aws.close(self._tuning.close_wait)

    async def _ask_peer(self) -> bool:
        call = Call("GET", self._client.what(Kind.REGISTRY), "/v2/", safe=True)
        reply = await self._client.ask(call)
        self._peer = PEER_HEADER in reply.headers
        return self._peer


async def open_registry(
    config: RegistryConfig,
    *,
    proxies: Mapping[str, str],
    events: Events,
    refusals: Refusals | None = None,
    trust: Trust | None = None,
    tuning: Tuning | None = None,
) -> Registry:
    """Connect a registry; ask AWS for its token if it is ECR, and wait a moment for the answer.

    `proxies` is what `urllib.request.getproxies_environment()` gives, `trust` whose certificates
    are trusted beside the system's; in `refusals` is counted where we were sent and did not go.
    Without credentials the registry opens all the same: `credentials_problem` says why, and they
    are looked for again. Raises `ValueError`, with a sentence for the start's error line, for a
    configuration that can never work.
    """
    tuning = tuning or Tuning()
    base = _read_base(config)
    host = parse_host(config.name) if config.ecr else None
    is_public = host is not None and host.public
    fallback = _read_basic(config)
    # ECR Public has rates of its own, which nobody has measured.
    paced = config.ecr and not is_public
    limits = Limits((ECR_RATES if tuning.rates is None else tuning.rates) if paced else {})
    redirect_hosts = _redirect_hosts(config, host)
    check_patterns(redirect_hosts)
    identity = None
    if config.client_cert_file is not None and config.client_key_file is not None:
        identity = config.client_cert_file, config.client_key_file
    transport = Transport(
        proxies=proxies,
        tuning=tuning,
        trust=trust,
        base=URL(base, encoded=True),
        identity=identity,
    )
    aws: Aws | None = None
    keeper: TokenKeeper | None = None
    authorizer: Authorizer
    credentials = _always(fallback)
    if config.ecr:
        aws = _open_aws(config, host, proxies, trust)
        credentials = public_credentials(aws, config.name, events)
    if aws is not None and not is_public:
        authorizer = keeper = TokenKeeper(
            private_source(aws, config.name), registry=config.name, events=events, tuning=tuning
        )
    else:
        authorizer = Bearer(
            transport,
            base=URL(base, encoded=True),
            registry=config.name,
            credentials=credentials,
            fallback=fallback,
            realm_hosts=PUBLIC_HOSTS if is_public else frozenset(),
            events=events,
            tuning=tuning,
        )
    client = Client(
        transport,
        authorizer,
        name=config.name,
        base=base,
        redirect_hosts=redirect_hosts,
        is_ecr=config.ecr,
        limits=limits,
        events=events,
        refusals=refusals or Refusals(),
        tuning=tuning,
    )
    api: EcrApi | None = None
    if aws is not None and not is_public:
        account = host.account if host is not None else ""
        api = EcrApi(aws, account=account, limits=limits, tuning=tuning)
    registry = Registry(
        config.name,
        client,
        is_ecr=config.ecr,
        is_public=is_public,
        aws=aws,
        api=api,
        new_repositories=config.new_repositories,
        tuning=tuning,
    )
    if keeper is not None:
        try:
            await keeper.start()
        except BaseException:  # cancelled: whoever asked gets nothing that could be closed
            await registry.close()
            raise
    return registry


def _open_aws(
    config: RegistryConfig,
    host: EcrHost | None,
    proxies: Mapping[str, str],
    trust: Trust | None,
) -> Aws:
    region = host.region if host is not None else None
    return Aws(
        config,
        # ECR Public has one region, whatever the others are in.
        region=region if host is not None and host.public else config.region or region,
        fips=host is not None and host.fips,
        dualstack=host is not None and host.dualstack,
        proxies=proxies,
        trust=trust,
    )


def _read_base(config: RegistryConfig) -> str:
    base = (config.url or f"https://{config.name}").rstrip("/")
    try:
        url = URL(base, encoded=True)
        usable = url.scheme in {"http", "https"} and url.host and url.port and is_safe(base)
    except ValueError:
        usable = None
    if not usable or url.raw_query_string or url.fragment:
        raise ValueError(f"{base!r} is no URL of a registry")
    if url.user is not None or url.password is not None:
        raise ValueError("the URL must not contain credentials, they are settings of their own")
    return base.removesuffix("/v2")


def _read_basic(config: RegistryConfig) -> str | None:
    if config.ecr or config.username is None:
        return None
    return basic(config.username, config.password or "")


def _redirect_hosts(config: RegistryConfig, host: EcrHost | None) -> tuple[str, ...]:
    """Where the registry may send us: the defaults, and what is configured."""
    if host is not None:
        return (*host.redirect_hosts, *config.redirect_hosts)
    # ECR by another name, such as a private DNS name of a VPC endpoint.
    known = storage_hosts(config.region) if config.ecr and config.region else ()
    return (*known, *config.redirect_hosts)


def _always(value: str | None) -> Callable[[], Awaitable[str | None]]:
    async def give() -> str | None:
        return value

    return give
