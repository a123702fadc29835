"""Uploads to a registry: POST, PATCH, PUT, DELETE (distribution-spec, "Pushing blobs").

The location of an upload is upstream's, and goes back to it byte for byte.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from proxy.errors import BadGateway, NameUnknown, NotFound, RegistryError, Unsupported
from proxy.oci import Digest, RepositoryName
from proxy.upstream.client import Call, Client, Reply
from proxy.upstream.errors import Kind, What
from proxy.upstream.failures import Dropped
from proxy.upstream.locations import resolve
from proxy.upstream.numbers import read_number
from proxy.upstream.transport import Pool, Sending
from proxy.upstream.values import Body, Upload

_OCTETS: Final = {"Content-Type": "application/octet-stream"}
# Of all parts but the last (ECR.md §4).
_ECR_MIN_PART: Final = 5 * 1024 * 1024


class UploadCalls:
    """The upload half of `Registry`."""

    _client: Client
    is_ecr: bool

    async def start_upload(
        self,
        repository: RepositoryName,
        *,
        algorithm: str = "sha256",
        mount: Digest | None = None,
        source: RepositoryName | None = None,
        patient: bool = True,
    ) -> Upload | None:
        """Open an upload; with `mount`, None if upstream took the blob from `source` instead.

        `patient`: it waits out trouble, as clients do not try that again. Raises `NameUnknown`
        where there is no such repository, or upstream's refusal.
        """
        query = []
        if mount is not None:
            query.append(f"mount={quote(mount, safe='')}")
            if source is not None:
                query.append(f"from={quote(source, safe='')}")
        if algorithm != "sha256":
            query.append(f"digest-algorithm={algorithm}")
        scope = f"repository:{repository}:pull,push"
        if source is not None:
            scope += f" repository:{source}:pull"
        call = Call(
            "POST",
            self._client.what(Kind.REPOSITORY, repository),
            f"/v2/{repository}/blobs/uploads/" + (f"?{'&'.join(query)}" if query else ""),
            ok=(201, 202),
            scope=scope,
            # An upload that nobody goes on with does no harm.
            safe=True,
            patient=patient,
            drop_may_answer=self.is_ecr,
        )
        try:
            reply = await self._client.ask(call)
        except BadGateway as error:
            if self.is_ecr and isinstance(error.__cause__, Dropped) and not self._client.is_down:
                # Until 2024 that was ECR's way to say so (ECR.md §5).
                raise NameUnknown(
                    f"{self._client.name} drops the connection when asked for an upload to "
                    f"{repository}: does the repository exist?"
                ) from error
            raise
        if reply.status == 201 and mount is not None:
            return None
        if reply.status == 201:
            raise BadGateway(f"{self._client.name} answered 201 to a new upload to {repository}")
        return self._next(reply, call.what, _ECR_MIN_PART if self.is_ecr else 0, None)

    async def send_chunk(self, upload: Upload, *, offset: int, length: int, body: Body) -> Upload:
        """Append `length` bytes at `offset`; the upload to go on with.

        Raises an error of status 416 when upstream stands at another offset, or its refusal. It
        is sent again only where upstream did nothing with it.
        """
        call = Call(
            "PATCH",
            self._client.what(Kind.UPLOAD),
            location=upload.location,
            # ECR: 201 (ECR.md §4); the spec: 202.
            ok=(201, 202, 204),
            headers={**_OCTETS, "Content-Range": f"{offset}-{offset + length - 1}"},
            body=Sending(body, length),
            scope=_scope_of(upload),
            pool=Pool.UPLOADS,
        )
        return self._next(await self._client.ask(call), call.what, upload.min_part, upload.location)

    async def finish_upload(
        self,
        upload: Upload,
        digest: Digest,
        *,
        offset: int,
        length: int,
        body: Body | None = None,
    ) -> None:
        """Close the upload as `digest`, with a last chunk (or the only one) if there is a body.

        Raises upstream's refusal, `BlobUploadInvalid` for other bytes than the digest's.
        """
        headers = dict(_OCTETS)
        if body is not None and offset > 0:
            headers["Content-Range"] = f"{offset}-{offset + length - 1}"
        joint = "&" if "?" in upload.location else "?"
        call = Call(
            "PUT",
            self._client.what(Kind.UPLOAD, reference=digest),
            location=f"{upload.location}{joint}digest={quote(digest, safe='')}",
            ok=(200, 201, 202, 204),
            headers=headers,
            body=None if body is None else Sending(body, length),
            scope=_scope_of(upload),
            pool=Pool.UPLOADS,
        )
        try:
            await self._client.ask(call)
        except RegistryError as error:
            # Upstream has the blob already, which is what was wanted. How ECR says so is not known
            # (ECR.md, "Unknown"); in its JSON API it is LayerAlreadyExistsException.
            if error.wire_status not in {400, 409} or "already exist" not in error.message.lower():
                raise

    async def cancel_upload(self, upload: Upload) -> None:
        """Drop an upload; none to drop, and an upstream that cannot, are fine as well."""
        call = Call(
            "DELETE",
            self._client.what(Kind.UPLOAD),
            location=upload.location,
            ok=(200, 202, 204, 404),
            scope=_scope_of(upload),
        )
        try:
            await self._client.ask(call)
        except (Unsupported, NotFound):
            return  # ECR lets them expire

    def _next(self, reply: Reply, what: What, min_part: int, location: str | None) -> Upload:
        given = reply.headers.get("Location")
        if given is None and location is None:
            raise BadGateway(f"{self._client.name} opened an upload for {what} without a Location")
        least = read_number(reply.headers.get("OCI-Chunk-Min-Length"))
        return Upload(
            location=resolve(given, base=reply.url) if given is not None else location or "",
            min_part=min_part if least is None else least,
        )


def _scope_of(upload: Upload) -> str:
    """The token scope that an upload needs: its repository is in the location, if anywhere."""
    path = upload.location.partition("?")[0]
    before, found, _ = path.partition("/blobs/uploads")
    repository = before.partition("/v2/")[2] if found else ""
    return f"repository:{repository}:pull,push" if repository else ""
