"""HEAD and GET of blobs: a HEAD answers itself, a GET only says where the bytes are."""

from __future__ import annotations

from proxy.oci import Digest
from proxy.standin.context import Context, Target
from proxy.standin.exchange import Call
from proxy.standin.image_rules import DOCKER_CONFIG
from proxy.standin.refusals import blob_inaccessible, blob_unknown
from proxy.standin.replies import Reply
from proxy.standin.repository import Blob, Repository


async def head(context: Context, call: Call, target: Target) -> Reply:
    """200, no redirect; the type is an image config's, also for layers (ECR.md §3)."""
    _, blob = _find(context, call, target)
    return Reply(
        200,
        {
            "Content-Type": DOCKER_CONFIG,
            "Content-Length": str(blob.size),
            "Docker-Content-Digest": blob.digest,
        },
    )


async def get(context: Context, call: Call, target: Target) -> Reply:
    """307 to a presigned URL on another host, never bytes; refused while no image needs it."""
    repository, blob = _find(context, call, target)
    status = context.state.settings.unreferenced_blob_status
    if status != 200 and not repository.is_referenced(blob.digest):
        raise blob_inaccessible(blob.digest, status)
    origin = context.s3_origin(call.host)
    path = f"/{repository.uid[:4]}-{repository.account}-{repository.uid}/{blob.digest.hex}"
    location = context.presigner.sign(origin, path, context.state.clock.stamp())
    return Reply(307, {"Location": f"http://{origin}{location}"})


def _find(context: Context, call: Call, target: Target) -> tuple[Repository, Blob]:
    repository = context.state.repository(target.name, call.account)
    blob = repository.blobs.get(Digest(target.digest))
    if blob is None or blob.lag.hides(context.state.clock):
        raise blob_unknown(call.account, target.name, target.digest)
    return repository, blob
