"""AWS through boto3, off the event loop: the credential chain, a role, the clients.

The only place that knows boto3. Whatever it raises leaves as a `RegistryError` with plain words.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import ClientError
from botocore.httpsession import get_cert_path
from yarl import URL

from proxy.errors import RegistryError, Unavailable
from proxy.upstream.aws_errors import explain, explain_answer, is_answer, no_credentials
from proxy.upstream.transport import choose_proxy
from proxy.upstream.trust import Trust, TrustFile
from proxy.upstream.values import RegistryConfig

T = TypeVar("T")

_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 10
_ATTEMPTS: Final = 2
_CONNECTIONS: Final = 32
_DEFAULT_REGION: Final = "us-east-1"

# For a session whose credentials are given: no profile of the environment and no file is read, so
# that neither can break it. The values are botocore's (key in the file, variable, default, type).
_NOTHING_FROM_OUTSIDE: Final = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}


class Aws:
    """One registry's way into AWS: its profile or the default chain, its role, its region.

    Invariant: `_session` works as far as is known: it is dropped as soon as anything fails that may
    be for its credentials, since botocore remembers the files it has read, and the next call starts
    from a fresh one. `_session` and `_clients` are touched by one thread at a time (`_lock`): a
    session is not thread-safe, and making a client is slow. Clients are thread-safe once made, so
    that no call waits for another one.
    """

    def __init__(
        self,
        config: RegistryConfig,
        *,
        region: str | None,
        fips: bool = False,
        dualstack: bool = False,
        proxies: Mapping[str, str],
        trust: Trust | None = None,
    ) -> None:
        self._config = config
        self._region = region
        self._variants = {
            name: True
            for name, on in (("use_fips_endpoint", fips), ("use_dualstack_endpoint", dualstack))
            if on
        }
        self._proxies = dict(proxies)
        self._trust = trust or Trust()
        self._trusted: TrustFile | None = None
        self._lock = threading.Lock()
        self._session: boto3.Session | None = None
        self._clients: dict[str, Any] = {}
        self._running: set[asyncio.Future[Any]] = set()

    async def call(self, service: str, action: str, work: Callable[[Any], T]) -> T:
        """Get credentials for the registry by `work`, with a client of `service`, in a thread.

        AWS's credentials that have been replaced meanwhile are read anew before it fails. Raises
        `RegistryError` with words, which name `action`; `NoCredentials` if no source has any.
        """

        def run() -> T:
            try:
                return self._attempt(service, work, lambda error: False)
            except RegistryError:
                raise
            except Exception as error:
                raise explain(error, action=action, registry=self._config.name) from error

        return await self._in_thread(run)

    async def ask(self, service: str, action: str, work: Callable[[Any], T]) -> T:
        """The same for what is no credentials: an answer of AWS's is about what was asked.

        Raises `Denied`, `NameUnknown`, `TooManyRequests` and so on, with AWS's words.
        """

        def run() -> T:
            try:
                return self._attempt(service, work, is_answer)
            except RegistryError:
                raise
            except Exception as error:
                raise explain_answer(error, action=action, registry=self._config.name) from error

        return await self._in_thread(run)

    async def close(self, wait: float) -> None:
        """Wait for what is under way, `wait` seconds at most.

        A thread inside boto3 cannot be interrupted; one that still runs dies with the process.
        """
        left: set[asyncio.Future[Any]] = set()
        if self._running:
            _, left = await asyncio.wait(self._running, timeout=wait)
        self._forget(self._session)
        if self._trusted is not None and not left:
            self._trusted.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        # A daemon thread of our own: the interpreter would wait for an executor's at exit, for as
        # long as AWS does not answer. Calls are rare enough for a thread each.
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._running.add(future)
        future.add_done_callback(self._running.discard)

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
                future.exception()  # seen, though its caller may have gone
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001 it is raised in the caller's task
                error = raised
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

        threading.Thread(target=run, name=f"aws {self._config.name}", daemon=True).start()
        # Shielded: a caller that gives up must not make `close` forget the thread.
        return await asyncio.shield(future)

    # All below runs in that thread.

    def _attempt(
        self, service: str, work: Callable[[Any], T], stands: Callable[[Exception], bool]
    ) -> T:
        """Run `work`, once more with a new session if the old one may be why it failed.

        `stands`: that failure is an answer, and has nothing to do with the session.
        """
        client, session, fresh = self._take(service)
        try:
            return work(client)
        except Exception as error:
            if stands(error):
                raise
            self._forget(session)
            if fresh or not _may_be_stale(error):
                raise
        client, session, _ = self._take(service)
        try:
            return work(client)
        except Exception as error:
            if not stands(error):
                self._forget(session)
            raise

    def _take(self, service: str) -> tuple[Any, boto3.Session, bool]:
        """A client, the session it is of, and whether that was made for it."""
        with self._lock:
            session, fresh = self._session, False
            if session is None:
                session, fresh = self._open_session(), True
                self._session = session
            if service not in self._clients:
                region = self._region or session.region_name or _DEFAULT_REGION
                endpoint = self._config.api_url if service.startswith("ecr") else None
                try:
                    self._clients[service] = self._make(session, service, region, endpoint)
                except Exception:
                    self._session = None
                    raise
            return self._clients[service], session, fresh

    def _forget(self, session: boto3.Session | None) -> None:
        """Drop the session, unless another thread has done so and made a better one.

        A call that another thread has under way with its client ends undisturbed.
        """
        with self._lock:
            if self._session is not session:
                return
            for client in self._clients.values():
                client.close()
            self._clients = {}
            self._session = None

    def _open_session(self) -> boto3.Session:
        config = self._config
        if config.access_key_id is not None:
            core = botocore.session.Session(session_vars=_NOTHING_FROM_OUTSIDE)
            core.set_credentials(config.access_key_id, config.secret_access_key)
        else:
            core = botocore.session.Session(profile=config.profile)
            _refuse_mfa(core, config.name)
        if self._region is not None:
            core.set_config_variable("region", self._region)
        self._set_trust(core)
        credentials = core.get_credentials()
        if credentials is None:
            chain = core.get_component("credential_provider").providers
            raise no_credentials(
                [provider.METHOD for provider in chain],
                registry=config.name,
                profile=config.profile,
            )
        if config.role_arn is None:
            return boto3.Session(botocore_session=core)
        return self._assume_role(core, credentials)

    def _assume_role(self, core: botocore.session.Session, source: Any) -> boto3.Session:
        """A session with the role's credentials, which botocore renews by itself."""
        config = self._config
        region = self._region or core.get_config_variable("region") or _DEFAULT_REGION

        def make_client(service: str, **keys: Any) -> Any:
            return self._make(boto3.Session(botocore_session=core), service, region, None, **keys)

        extra = {"RoleSessionName": config.role_session_name}
        if config.external_id is not None:
            extra["ExternalId"] = config.external_id
        fetcher = AssumeRoleCredentialFetcher(
            make_client, source, config.role_arn, extra_args=extra
        )
        role = botocore.session.Session(profile=config.profile)
        self._set_trust(role)
        role._credentials = DeferredRefreshableCredentials(
            refresh_using=fetcher.fetch_credentials, method="assume-role"
        )
        return boto3.Session(botocore_session=role)

    def _set_trust(self, core: botocore.session.Session) -> None:
        """Have every client of a session trust what we do beside what botocore would trust.

        Also those that botocore makes by itself, to get credentials. It takes a file in place of
        its own certificates (`AWS_CA_BUNDLE`), so that one holds both.
        """
        if not self._trust.adds:
            return
        if self._trusted is None:
            path = Path(core.get_config_variable("ca_bundle") or get_cert_path(verify=True))
            try:
                self._trusted = self._trust.file_with(path)
            except OSError as error:
                raise Unavailable(
                    f"no token for {self._config.name}: the certificates that AWS is to be known "
                    f"by cannot be read from {path}: {error.strerror}"
                ) from error
        core.set_config_variable("ca_bundle", self._trusted.path)

    def _make(
        self, session: boto3.Session, service: str, region: str, endpoint: str | None, **keys: Any
    ) -> Any:
        options: dict[str, Any] = {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _READ_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS},
            "max_pool_connections": _CONNECTIONS,
            "user_agent_extra": "ecr-cache-proxy",
            # What the registry's name says is about ECR, and not about STS.
            **(self._variants if endpoint is None and service == "ecr" else {}),
        }

        def client(proxies: dict[str, str]) -> Any:
            return session.client(
                service,
                region_name=region,
                endpoint_url=endpoint,
                # A mapping, even an empty one, keeps botocore from reading the environment.
                config=Config(proxies=proxies, **options),
                **keys,
            )

        # Only the client knows where its endpoint is, and so whether it takes a forward proxy.
        made = client({})
        url = URL(made.meta.endpoint_url)
        proxy = choose_proxy(url, self._proxies)
        if proxy is None:
            return made
        made.close()
        return client({url.scheme: proxy})


def _refuse_mfa(core: botocore.session.Session, registry: str) -> None:
    """Raise if the profile wants a code from a device: botocore would ask on the terminal."""
    profiles = core.full_config.get("profiles", {})
    name, seen = core.profile or "default", set()
    while name and name not in seen:
        seen.add(name)
        profile = profiles.get(name, {})
        if "mfa_serial" in profile:
            raise Unavailable(
                f"no token for {registry}: the profile {name} has mfa_serial, "
                "and there is nobody to ask for the code. Use another profile or role"
            )
        name = profile.get("source_profile")


def _may_be_stale(error: Exception) -> bool:
    """Whether another session could do better: not when AWS said no, or does not answer."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return bool(400 <= status < 500 and status != 429)
    return False
