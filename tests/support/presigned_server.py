"""A moto server that takes presigned URLs as S3 does: it checks their signature, their age, and their owner's rights.

Run as `python -m tests.support.presigned_server PORT`. moto itself looks at none of these. Requests with signed headers
may do everything: they are the service's. As on S3, who may not list a bucket is told 403 of an object that is missing.
"""

import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from tests.support.moto_server import serve

_FORM = "%Y%m%dT%H%M%SZ"
_ACTIONS = {"PUT": "s3:PutObject", "GET": "s3:GetObject", "DELETE": "s3:DeleteObject"}


class PresignedApplication:
    """moto's application; a presigned request reaches it if its signature is right and its owner may do that."""

    def __init__(self, aws: Callable[..., Iterable[bytes]]) -> None:
        self._aws = aws

    def __call__(self, environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        query = dict(parse_qsl(environment.get("QUERY_STRING", ""), keep_blank_values=True))
        if "X-Amz-Signature" not in query:
            return self._aws(environment, start_response)
        if (refusal := _refusal(environment, query)) is not None:
            environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
            body = f"<Error><Code>{refusal}</Code></Error>".encode()
            start_response("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", f"{len(body)}")])
            return [body]
        # Without any, it would be anybody's request to moto.
        environment["HTTP_AUTHORIZATION"] = (
            f"AWS4-HMAC-SHA256 Credential={query['X-Amz-Credential']}, SignedHeaders=host, Signature=checked"
        )
        environment["QUERY_STRING"] = urlencode({k: v for k, v in query.items() if not k.startswith("X-Amz-")})

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            bucket = environment["PATH_INFO"].split("/")[1]
            is_hidden = status.startswith("404") and not _may(_key_of(query), "s3:ListBucket", bucket)
            return start_response("403 Forbidden" if is_hidden else status, headers, *rest)

        return self._aws(environment, start)


def _refusal(environment: dict[str, Any], query: dict[str, str]) -> str | None:
    key, _, region, service, _ = query["X-Amz-Credential"].split("/")
    known = iam_backends[DEFAULT_ACCOUNT_ID]["aws"].access_keys.get(key)
    if known is None:
        return "InvalidAccessKeyId"
    signed_at = datetime.strptime(query["X-Amz-Date"], _FORM).replace(tzinfo=UTC)
    if datetime.now(UTC) > signed_at + timedelta(seconds=int(query["X-Amz-Expires"])):
        return "AccessDenied"
    path = environment["PATH_INFO"].encode("latin-1").decode()
    rest = {name: value for name, value in query.items() if name != "X-Amz-Signature"}
    url = f"http://{environment['HTTP_HOST']}{quote(path, safe='/~')}?{urlencode(rest, quote_via=quote)}"
    headers = {name: _header(environment, name) for name in query["X-Amz-SignedHeaders"].split(";")}
    request = AWSRequest(environment["REQUEST_METHOD"], url, headers)
    request.context["timestamp"] = query["X-Amz-Date"]
    signer = S3SigV4QueryAuth(Credentials(key, known.secret_access_key), service, region)
    expected = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    if expected != query["X-Amz-Signature"]:
        return "SignatureDoesNotMatch"
    resource = path.strip("/")
    action = _ACTIONS[environment["REQUEST_METHOD"]] if "/" in resource else "s3:ListBucket"
    return None if _may(key, action, resource) else "AccessDenied"


def _key_of(query: dict[str, str]) -> str:
    return query["X-Amz-Credential"].partition("/")[0]


def _header(environment: dict[str, Any], name: str) -> str:
    plain = name.upper().replace("-", "_")
    return str(environment.get(plain if plain.startswith("CONTENT_") else f"HTTP_{plain}", ""))


def _may(key: str, action: str, resource: str) -> bool:
    backend = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    user = backend.get_user(backend.access_keys[key].user_name)
    policies = [backend.get_user_policy(user.name, name) for name in user.policies]
    results = {IAMPolicy(policy).is_action_permitted(action, f"arn:aws:s3:::{resource}") for policy in policies}
    return PermissionResult.PERMITTED in results and PermissionResult.DENIED not in results


if __name__ == "__main__":
    serve(int(sys.argv[1]), PresignedApplication(DomainDispatcherApplication(create_backend_app)))
