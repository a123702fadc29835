"""What went wrong with AWS, in words that say what to do about it.

Pure: an exception of botocore in, an error of our own out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from botocore import exceptions as boto

from proxy.errors import (
    BadGateway,
    Denied,
    GatewayTimeout,
    NameUnknown,
    RegistryError,
    TooManyRequests,
    Unavailable,
    Unsupported,
)
from proxy.upstream.errors import one_line, redact

# botocore's METHOD of each provider in the credential chain, for people.
_SOURCES: Final = {
    "env": "the environment (AWS_ACCESS_KEY_ID)",
    "assume-role": "a role in the profile (role_arn)",
    "assume-role-with-web-identity": "web identity (AWS_WEB_IDENTITY_TOKEN_FILE)",
    "sso": "SSO (aws sso login)",
    "shared-credentials-file": "the shared credentials file",
    "login": "a console login (aws login)",
    "custom-process": "credential_process",
    "config-file": "the shared config file",
    "container-role": "the container's role",
    "iam-role": "the instance's role",
}

_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_BAD_KEY: Final = frozenset(
    {
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "AuthFailure",
        "MissingAuthenticationToken",
    }
)
_EXPIRED: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
)
_SIGNATURE: Final = frozenset({"InvalidSignatureException", "SignatureDoesNotMatch"})


# What ECR's JSON API calls what its registry API has a code for (ECR.md, "Mental model").
_ANSWERS: Final[dict[str, type[RegistryError]]] = {
    **dict.fromkeys(_DENIED, Denied),
    "RepositoryNotFoundException": NameUnknown,
    "ThrottlingException": TooManyRequests,
    "Throttling": TooManyRequests,
    "TooManyRequestsException": TooManyRequests,
    "RequestLimitExceeded": TooManyRequests,
    "LimitExceededException": Denied,
    "KmsException": Denied,
    "InvalidParameterException": Unsupported,
    "ValidationException": Unsupported,
    "InvalidTagParameterException": Unsupported,
    "TooManyTagsException": Unsupported,
}


class NoCredentials(Unavailable):
    """No source of the chain has any AWS credentials."""


def no_credentials(methods: Sequence[str], *, registry: str, profile: str | None) -> NoCredentials:
    """`methods`: of the providers that were asked, in their order."""
    tried = [_SOURCES[method] for method in methods if method in _SOURCES]
    where = f" (profile {profile})" if profile else ""
    return NoCredentials(
        f"no AWS credentials for {registry}{where}: tried {', '.join(tried)}. "
        "Set up one of them; it is noticed without a restart"
    )


def explain(error: Exception, *, action: str, registry: str) -> RegistryError:
    """The error for a client and the log; `action` is what was asked of AWS.

    Words only, never a key: botocore's messages carry none.
    """
    return _explain(error, f"no token for {registry}: {action} failed")


def is_answer(error: Exception) -> bool:
    """Whether ECR has answered what was asked, be it with a no: the credentials are as good."""
    if not isinstance(error, boto.ClientError):
        return False
    return _code(error) not in _BAD_KEY | _EXPIRED | _SIGNATURE


def explain_answer(error: Exception, *, action: str, registry: str) -> RegistryError:
    """The error for what was asked of ECR's JSON API, as its registry API would give it."""
    intro = f"{action} in {registry} failed"
    if isinstance(error, boto.ClientError):
        said = str(error.response.get("Error", {}).get("Message", ""))
        message = one_line(redact(said)) or intro
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        kind = _ANSWERS.get(_code(error))
        if kind is None and status == 429:
            kind = TooManyRequests
        if kind is Denied and _code(error) in _DENIED:
            return Denied(f"{message} (the principal needs ecr:{action})")
        if kind is not None:
            return kind(message)
    return _explain(error, intro)


def _explain(error: Exception, intro: str) -> RegistryError:
    if isinstance(error, boto.ClientError):
        return _explain_refusal(error, intro)
    message = one_line(str(error))
    if isinstance(
        error,
        (boto.SSOTokenLoadError, boto.UnauthorizedSSOTokenError, boto.TokenRetrievalError),
    ):
        return Unavailable(
            f"{intro}: the SSO session has expired or is missing, run: aws sso login"
        )
    if isinstance(error, boto.LoginError):
        return Unavailable(f"{intro}: {message}. Run: aws login")
    if isinstance(error, boto.ProfileNotFound):
        return Unavailable(f"{intro}: {message} (AWS_CONFIG_FILE names the file to look in)")
    if isinstance(error, (boto.ReadTimeoutError, boto.ConnectTimeoutError)):
        return GatewayTimeout(
            f"{intro}: no answer in time. {message}. Is AWS reachable from here, "
            "or does it take HTTPS_PROXY or a VPC endpoint for ecr.api?"
        )
    if isinstance(error, boto.ProxyConnectionError):
        return BadGateway(f"{intro}: the forward proxy does not answer. {message}")
    if isinstance(error, boto.SSLError):
        return BadGateway(
            f"{intro}: no trusted TLS connection. {message}. "
            "ca-bundle, or AWS_CA_BUNDLE for AWS alone, names a file of certificates to trust"
        )
    if isinstance(error, (boto.EndpointConnectionError, boto.ConnectionClosedError)):
        return BadGateway(
            f"{intro}: {message}. Is AWS reachable from here, "
            "or does it take HTTPS_PROXY or a VPC endpoint for ecr.api?"
        )
    return Unavailable(f"{intro}: {message or type(error).__name__}")


def _code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _explain_refusal(error: boto.ClientError, intro: str) -> RegistryError:
    code, message = one_line(_code(error)), str(error.response.get("Error", {}).get("Message", ""))
    if code in _SIGNATURE:
        # What follows is what should have been signed, with the session's token in it.
        message = message.partition("\n")[0].partition(" The Canonical String")[0]
    said = f"{code}: {one_line(redact(message))}" if message else code
    if code in _DENIED:
        what = "sts:AssumeRole" if "AssumeRole" in error.operation_name else _permission(error)
        return Unavailable(f"{intro}: {said}. The principal needs {what}")
    if code in _EXPIRED:
        return Unavailable(f"{intro}: {said}. The AWS credentials have expired, renew them")
    if code in _BAD_KEY:
        return Unavailable(f"{intro}: {said}. AWS does not know these credentials")
    if code in _SIGNATURE:
        return Unavailable(
            f"{intro}: {said}. The secret key is wrong, or the clock of this machine is"
        )
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if isinstance(status, int) and status >= 500:
        return BadGateway(f"{intro}: AWS answered {status} {said}")
    return Unavailable(f"{intro}: {said}")


def _permission(error: boto.ClientError) -> str:
    return {"GetAuthorizationToken": "ecr:GetAuthorizationToken on *"}.get(
        error.operation_name, f"permission for {error.operation_name}"
    )
