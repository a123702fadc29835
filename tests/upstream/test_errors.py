"""Upstream's refusals: what each one becomes, and which words survive."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy import errors
from proxy.errors import RegistryError, UpstreamRefusal
from proxy.upstream.auth import basic
from proxy.upstream.aws_errors import explain, explain_answer
from proxy.upstream.bodies import MAX_ERROR_BYTES
from proxy.upstream.errors import (
    Kind,
    What,
    Words,
    conceal,
    means_expired,
    read_words,
    redact,
    translate,
)
from tests.upstream.fakes import ecr_error

MANIFEST = What("ecr.example", Kind.MANIFEST, "team/app", "v1")
BLOB = What("ecr.example", Kind.BLOB, "team/app", "sha256:ab")
UPLOAD = What("ecr.example", Kind.UPLOAD)
REPOSITORY = What("ecr.example", Kind.REPOSITORY, "team/app")
REGISTRY = What("ecr.example")

_NO_CHILD = "Images with digests '[sha256:ab]' required for pushing image do not exist"


@pytest.mark.parametrize(
    ("status", "code", "message", "what", "expected"),
    [
        # ECR.md §3
        (404, "MANIFEST_UNKNOWN", "Requested image not found", MANIFEST, errors.ManifestUnknown),
        (404, "NAME_UNKNOWN", "The repository does not exist", MANIFEST, errors.NameUnknown),
        (404, "BLOB_UNKNOWN", "The layer does not exist", BLOB, errors.BlobUnknown),
        (405, "UNSUPPORTED", "Invalid parameter at 'maxResults'", REGISTRY, errors.Unsupported),
        # ECR.md §4
        (400, "BLOB_UPLOAD_INVALID", "None of the digests match", UPLOAD, errors.BlobUploadInvalid),
        (404, "BLOB_UPLOAD_UNKNOWN", "Layers do not exist", MANIFEST, errors.BlobUploadUnknown),
        (400, "MANIFEST_BLOB_UNKNOWN", _NO_CHILD, MANIFEST, UpstreamRefusal),
        (400, "TAG_INVALID", "The image tag 'v1' already exists", MANIFEST, errors.TagInvalid),
        (400, "MANIFEST_INVALID", "does not match", MANIFEST, errors.ManifestInvalid),
        (416, "BLOB_UPLOAD_INVALID", "First byte is 0 instead of 5", UPLOAD, UpstreamRefusal),
        (429, "TOOMANYREQUESTS", "Rate exceeded", MANIFEST, errors.TooManyRequests),
        # ECR.md §6
        (403, "DENIED", "User: arn:x is not authorized to perform", BLOB, errors.Denied),
        # codes of other registries
        (404, "NOT_FOUND", "artifact not found", MANIFEST, errors.ManifestUnknown),
        (404, "NOT_FOUND", "not found", BLOB, errors.BlobUnknown),
        (409, "CONFLICT", "busy", UPLOAD, UpstreamRefusal),
    ],
)
def test_refusal_keeps_status_code_and_words(
    status: int, code: str, message: str, what: What, expected: type[RegistryError]
) -> None:
    error = translate(status, {}, ecr_error(code, message), what)
    assert type(error) is expected
    assert error.wire_status == status
    assert error.message == message
    if code not in {"NOT_FOUND"}:
        assert error.wire_code == code


@pytest.mark.parametrize(
    ("status", "what", "expected", "words"),
    [
        (404, MANIFEST, errors.ManifestUnknown, "manifest v1 of team/app in ecr.example"),
        (404, BLOB, errors.BlobUnknown, "blob sha256:ab of team/app"),
        (404, UPLOAD, errors.BlobUploadUnknown, "upload in ecr.example"),
        (404, REPOSITORY, errors.NameUnknown, "team/app in ecr.example"),
        (404, REGISTRY, errors.NotFound, "ecr.example"),
        (400, MANIFEST, UpstreamRefusal, "manifest v1"),
        (403, BLOB, errors.Denied, "blob sha256:ab"),
        (405, MANIFEST, errors.Unsupported, "manifest v1"),
        (413, MANIFEST, errors.ManifestTooLarge, "manifest v1"),
        (416, BLOB, errors.RangeInvalid, "blob sha256:ab"),
        (429, BLOB, errors.TooManyRequests, "blob sha256:ab"),
        (418, BLOB, UpstreamRefusal, "418"),
        (302, BLOB, errors.BadGateway, "302"),
    ],
)
def test_refusal_without_words_names_what_was_asked_for(
    status: int, what: What, expected: type[RegistryError], words: str
) -> None:
    """As every HEAD is answered."""
    error = translate(status, {}, b"", what)
    assert type(error) is expected
    assert words in error.message


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (500, errors.BadGateway),
        (502, errors.BadGateway),
        (503, errors.Unavailable),
        (504, errors.GatewayTimeout),
    ],
)
def test_outage_names_upstream_and_keeps_its_words(
    status: int, expected: type[RegistryError]
) -> None:
    error = translate(status, {}, ecr_error("UNKNOWN", "it hurts"), BLOB)
    assert type(error) is expected
    assert error.message == (
        f"ecr.example answered {status} for blob sha256:ab of team/app in ecr.example: "
        "UNKNOWN, it hurts"
    )


@pytest.mark.parametrize("body", [b"Not Authorized\n", ecr_error("UNAUTHORIZED", "who?"), b""])
def test_challenge_of_upstream_never_reaches_a_client(body: bytes) -> None:
    headers = {"WWW-Authenticate": 'Basic realm="https://ecr.example/"'}
    error = translate(401, headers, body, MANIFEST)
    assert error.wire_status == 503
    assert error.headers == {}
    assert "refused the proxy's credentials" in error.message


def test_retry_after_is_handed_on() -> None:
    error = translate(429, CIMultiDict({"retry-after": "7"}), b"", BLOB)
    assert error.headers == {"Retry-After": "7"}


def test_all_errors_of_a_body_are_told() -> None:
    body = json.dumps(
        {
            "errors": [
                {"code": "MANIFEST_INVALID", "message": "first", "detail": "more"},
                {"code": "OTHER", "message": "second", "detail": {"a": 1}},
            ]
        }
    ).encode()
    assert read_words({}, body) == Words("MANIFEST_INVALID", "first (more); second")


FORGED = "no\n2026-11-25 18:00:00 ERROR the disk is on fire\r\x1b[2J\x9b\u2028\ud800"


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(
            {"errors": [{"code": FORGED, "message": FORGED, "detail": FORGED[1:]}]}
        ).encode(),
        f"<Error><Code>{FORGED}</Code><Message>{FORGED}</Message></Error>".encode(
            "utf-8", "replace"
        ),
        FORGED.encode("utf-8", "replace"),
    ],
)
def test_what_upstream_says_stays_one_line_of_a_log(body: bytes) -> None:
    words = read_words({}, body)
    assert words.message.startswith("no 2026-11-25")
    assert (words.code + words.message).isprintable()


@pytest.mark.parametrize(
    "piece", ["?", "?X-Amz", "?a=b&", "x-amz-", "basic ", "Bearer a", "<Code>"]
)
def test_no_words_take_long_to_read(piece: str) -> None:
    """Nobody is served meanwhile. A regular expression that goes back and forth takes a minute."""
    text = piece * MAX_ERROR_BYTES
    assert len(read_words({}, text[:MAX_ERROR_BYTES].encode()).message) <= 2000
    assert redact(text[: 4 * MAX_ERROR_BYTES])


@pytest.mark.parametrize("query", ["X-Amz-Signature=abc", "a?b=c&x-amz-signature=abc?d"])
def test_a_signed_query_is_not_repeated(query: str) -> None:
    words = read_words({}, f"Refused: https://s3.example/x?{query} is over".encode())
    assert "abc" not in words.message
    assert words.message.startswith("Refused: https://s3.example/x?")
    assert words.message.endswith("… is over")


def test_what_aws_says_stays_one_line_of_a_log() -> None:
    answer = {"Error": {"Code": FORGED, "Message": FORGED}}
    error = ClientError(answer, "BatchCheckLayerAvailability")
    assert explain(error, action="x", registry="r").message.isprintable()
    answer["Error"]["Code"] = "ValidationException"
    assert explain_answer(error, action="x", registry="r").message.isprintable()


def test_no_layer_that_a_manifest_lacks_is_cut_off() -> None:
    digests = [f"sha256:{number:064x}" for number in range(501)]  # ECR's most, and the config
    message = f"Layers with digests '[{', '.join(digests)}]' required for pushing do not exist"
    error = translate(404, {}, ecr_error("BLOB_UPLOAD_UNKNOWN", message), MANIFEST)
    assert error.message == message
    assert len(error.reason()) == 1000


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", Words("", "")),
        (b"  Not\nAuthorized ", Words("", "Not Authorized")),
        (b"<html><body>blocked</body></html>", Words("", "")),
        (b'{"errors":[]}', Words("", '{"errors":[]}')),
        (b'{"errors":["x",{"code":5}]}', Words("", "")),
        (b"[" * 70000, Words("", ("[" * 70000)[:2000])),
        (
            b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Slow</Message></Error>',
            Words("SlowDown", "Slow"),
        ),
    ],
)
def test_words_are_found_in_any_body(body: bytes, words: Words) -> None:
    assert read_words({}, body) == words


@given(
    status=st.integers(300, 599),
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=8) | st.just("errors"),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["errors", "code", "message", "detail"]), inner, max_size=4
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_whatever_upstream_says_becomes_an_error(status: int, body: bytes) -> None:
    error = translate(status, {}, body, MANIFEST)
    assert error.wire_status >= 400
    assert error.wire_status != 401
    assert error.message
    assert json.loads(error.body())


@pytest.mark.parametrize(
    ("status", "code", "message", "expected"),
    [
        (401, "", "", True),
        (
            403,
            "DENIED",
            "Your authorization token has expired. Reauthenticate and try again.",
            True,
        ),
        (400, "", "Your Authorization Token has expired.", True),
        (400, "DENIED", "Your authorization token has expired.", True),
        (403, "DENIED", "User: arn:x is not authorized to perform: ecr:BatchGetImage", False),
        (403, "", "", False),
        (400, "TAG_INVALID", "Invalid parameter", False),
        (404, "X", "token expired", False),
        (500, "X", "token expired", False),
    ],
)
def test_expiry_is_told_from_denial(status: int, code: str, message: str, expected: bool) -> None:
    assert means_expired(status, Words(code, message)) is expected


PASSWORD = 'pass/"word\\+='


@pytest.mark.parametrize(
    ("authorization", "body", "expected"),
    [
        (basic("me", PASSWORD), f"no {basic('me', PASSWORD)} here", "no Basic (credentials) here"),
        (basic("me", PASSWORD), f"no me:{PASSWORD} here", "no me:(credentials) here"),
        (basic("me", PASSWORD), '"no pass/\\"word\\\\+= here"', '"no (credentials) here"'),
        (basic("me", "a"), "a word as any", "a word as any"),
        ("Bearer a.token", "no a.token here", "no (credentials) here"),
        ("Basic ????", "no ???? here", "no (credentials) here"),
        ("Basic", "no Basic here", "no Basic here"),
        (None, "nothing was sent", "nothing was sent"),
    ],
)
def test_credentials_that_a_refusal_repeats_are_taken_out(
    authorization: str | None, body: str, expected: str
) -> None:
    assert conceal(body.encode(), authorization).decode() == expected
