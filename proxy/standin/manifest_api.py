"""GET, HEAD, PUT and DELETE of manifests."""

from __future__ import annotations

from proxy.oci import MAX_MANIFEST_BYTES, Digest
from proxy.standin.context import Context, Target
from proxy.standin.exchange import Call
from proxy.standin.image_rules import ImageFacts, convert, read_image
from proxy.standin.refusals import Kind, Refusal, image_unknown, required
from proxy.standin.replies import Reply
from proxy.standin.repository import Image, Repository


async def get(context: Context, call: Call, target: Target) -> Reply:
    """GET and HEAD (ECR.md §3): only HEAD names the digest, and it has an empty `Sizes`."""
    repository = context.state.repository(target.name, call.account)
    image = repository.find_image(target.reference)
    if image is None or image.archived or image.lag.hides(context.state.clock):
        raise image_unknown()
    content, media_type = image.content, image.media_type
    if ":" not in target.reference:
        content, media_type = _accepted(image, call)
    if call.method == "GET":
        return Reply(200, {"Content-Type": media_type}, content)
    return Reply(
        200,
        {
            "Content-Type": media_type,
            "Content-Length": str(len(content)),
            "Docker-Content-Digest": Digest.of(content),
            "Sizes": "",
        },
    )


async def put(context: Context, call: Call, target: Target) -> Reply:
    """PUT: everything that ECR demands of an image, then 201 without a Location (§4)."""
    state = context.state
    repository = state.repository_for_push(target.name, call.account)
    content = await call.read(MAX_MANIFEST_BYTES)
    media_type = call.headers.get("Content-Type", "").partition(";")[0].strip()
    facts = read_image(
        content, media_type, docker_layers_in_oci=state.settings.docker_layers_in_oci
    )
    digest = Digest.of(content)
    tag = None if ":" in target.reference else target.reference
    if tag is None and target.reference != digest:
        raise Refusal(
            Kind.MANIFEST_INVALID,
            f"The image with digest '{target.reference}' in repository '{target.name}' and "
            f"registry ID '{call.account}' does not match the image digest that Amazon ECR has "
            "calculated.",
        )
    if tag is not None:
        repository.check_tag(tag)
    if state.settings.check_layers:
        _check_complete(repository, facts)
    image = Image(digest, content, media_type, facts, state.clock.now(), lag=state.fresh_lag())
    repository.put_image(image, tag)
    call.stored = digest
    state.save(repository)
    headers = {"Docker-Content-Digest": digest} if state.settings.put_digest_header else {}
    if facts.subject is not None:
        headers["OCI-Subject"] = facts.subject
    return Reply(201, headers)


async def delete(context: Context, call: Call, target: Target) -> Reply:
    """DELETE by tag or digest: 202; a child of an index is protected (§3)."""
    repository = context.state.repository(target.name, call.account)
    repository.delete_image(target.reference)
    context.state.save(repository)
    return Reply(202)


def _accepted(image: Image, call: Call) -> tuple[bytes, str]:
    """What a reader of the tag gets by its Accept: as stored, converted, or nothing."""
    accept = ",".join(call.headers.getall("Accept", []))
    wanted = [each.partition(";")[0].strip() for each in accept.split(",") if each.strip()]
    if not wanted or "*/*" in wanted or image.media_type in wanted:
        return image.content, image.media_type
    converted = convert(image.content, image.media_type, wanted)
    if converted is None:
        raise image_unknown()
    return converted


def _check_complete(repository: Repository, facts: ImageFacts) -> None:
    """Every layer, the config and every child must be in this very repository."""
    account, name = repository.account, repository.name
    layers = [digest for digest in facts.blobs if digest not in repository.blobs]
    if layers:
        raise Refusal(Kind.LAYERS_UNKNOWN, required("Layers", layers, account, name))
    children = [digest for digest in facts.children if digest not in repository.images]
    if children:
        raise Refusal(Kind.CHILDREN_UNKNOWN, required("Images", children, account, name))
