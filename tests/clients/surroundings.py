"""What these tests use of the fixtures `standin` and `live_proxy`."""

from collections.abc import Sequence
from typing import Protocol


class Request(Protocol):
    """A request that the stand-in answered."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def status(self) -> int: ...


class Standin(Protocol):
    """The strict local ECR: a registry endpoint, what it was asked, and a login for it."""

    @property
    def url(self) -> str: ...
    @property
    def requests(self) -> Sequence[Request]: ...
    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...


class LiveProxy(Protocol):
    """`ecr-cache-proxy serve` in a process of its own, in front of the stand-in."""

    @property
    def address(self) -> str: ...
    def restart(self, empty_cache: bool = False) -> object: ...
