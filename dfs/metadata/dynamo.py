"""The edge to AWS: the one module that imports boto3, and turns what it raises into our errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfs import __version__
from dfs.errors import StartError
from dfs.metadata.contract import StepsRefused
from dfs.metadata.dynamo_calls import (
    AccessRefused,
    Calls,
    Failure,
    InUse,
    Kind,
    Missing,
    NotOffered,
    Refused,
    Rejected,
)
from dfs.metadata.dynamo_store import DynamoStore
from dfs.metadata.tables import tables_of
from dfs.settings import CommonSettings

try:
    import boto3
    import boto3.session
    from botocore import exceptions as aws
    from botocore.config import Config
    from botocore.parsers import ResponseParserError
except ImportError as missing:
    raise StartError(
        "DFS_METADATA_URL=dynamodb:// needs the Python package boto3: install it (pip install 'dfs[aws]'), "
        "or use DFS_METADATA_URL=sqlite:///PATH on a single machine"
    ) from missing

CONNECT_SECONDS = 1
READ_SECONDS = 3
POOLED_CONNECTIONS = 64

_CONTENDED = {
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "RequestLimitExceeded",
    "LimitExceededException",
    "TransactionConflictException",
    "ReplicatedWriteConflictException",
}
_CONTENDED_REASONS = {"None", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}
_IN_USE = {
    "ResourceInUseException",
    "TableAlreadyExistsException",
    "ContinuousBackupsUnavailableException",  # for a while after a table was made
}
_ACCESS = {
    "AccessDeniedException": "these credentials may not do that",
    "UnrecognizedClientException": "the access key is not known there",
    "InvalidSignatureException": "the secret key does not match, or this machine's clock is wrong",
    "IncompleteSignatureException": "the credentials are malformed",
    "MissingAuthenticationTokenException": "there are no credentials",
    "ExpiredTokenException": "the session token has expired",
    "InvalidClientTokenId": "the access key is not known there",
    "OptInRequired": "the account is not subscribed to DynamoDB",
    "SubscriptionRequiredException": "the account is not subscribed to DynamoDB",
}
_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
    aws.ProfileNotFound,
    aws.ConfigParseError,
)


def open_dynamo(
    settings: CommonSettings, *, wrap: Callable[[Any], Any] = lambda client: client, **options: Any
) -> DynamoStore:
    """The store on the settings' region and tables; connects when first used.

    `wrap` is the seam for tests that inject faults: it gets each new boto3 client.
    """

    def make_client() -> Any:
        # A session of our own: the default one is shared and not thread-safe.
        session = boto3.session.Session(region_name=settings.aws_region)
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=POOLED_CONNECTIONS,
            tcp_keepalive=True,
            # Both cost a third of the CPU time of a call: DynamoDB checks every request itself (as
            # `dynamo_items` does), and botocore makes its own long name anew for each.
            parameter_validation=False,
            user_agent=f"dfs/{__version__}",
        )
        return wrap(session.client("dynamodb", config=config))

    return DynamoStore(tables_of(settings), Calls(make_client, judge, **options))


def judge(error: BaseException) -> Failure | None:
    """What an exception of boto3 means; None when it is not one of its."""
    if isinstance(error, aws.ClientError):
        return _judge_answer(error)
    if isinstance(error, _NO_CREDENTIALS):
        return _access(f"no usable AWS credentials: {error}")
    if isinstance(error, aws.NoRegionError):
        return Failure(Kind.RAISED, "", StartError("AWS_REGION is not set: name the region of the tables"))
    if isinstance(error, aws.EndpointConnectionError | aws.ConnectTimeoutError | aws.ProxyConnectionError):
        return Failure(Kind.NOT_SENT, str(error))
    if isinstance(error, ResponseParserError) or (
        isinstance(error, aws.BotoCoreError) and not isinstance(error, aws.ParamValidationError)
    ):
        # Timeouts, resets, half answers, and whatever else cannot be told from them.
        return Failure(Kind.LOST, str(error))
    if isinstance(error, ValueError) and "Invalid endpoint" in str(error):
        return Failure(Kind.RAISED, "", StartError(f"AWS_ENDPOINT_URL is not a URL: {error}"))
    return None


def _access(text: str) -> Failure:
    return Failure(Kind.RAISED, text, AccessRefused(text))


def _judge_answer(error: Any) -> Failure:
    answer = error.response
    code = answer.get("Error", {}).get("Code", "")
    text = f"{code}: {answer.get('Error', {}).get('Message', '')}"
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "ConditionalCheckFailedException":
        return Failure(Kind.RAISED, text, Refused(text, answer.get("Item")))
    if code == "TransactionCanceledException":
        return _judge_cancellation(answer, text)
    if code in _CONTENDED:
        return Failure(Kind.CONTENDED, text)
    if code == "ResourceNotFoundException":
        return Failure(Kind.RAISED, text, Missing(text))
    if code in _IN_USE:
        return Failure(Kind.RAISED, text, InUse(text))
    if code in ("UnknownOperationException", "UnknownOperation"):
        return Failure(Kind.RAISED, text, NotOffered(text))
    if code in _ACCESS:
        return _access(f"DynamoDB refused the credentials: {_ACCESS[code]} ({text})")
    if status >= 500 or code in ("TransactionInProgressException", "InternalServerError"):
        return Failure(Kind.LOST, text)
    return Failure(Kind.RAISED, text, Rejected(f"DynamoDB refused the request: {text}"))


def _judge_cancellation(answer: dict[str, Any], text: str) -> Failure:
    codes = [reason.get("Code") or "None" for reason in answer.get("CancellationReasons", [])]
    if "ConditionalCheckFailed" in codes:
        return Failure(Kind.RAISED, text, StepsRefused(text))
    if codes and set(codes) <= _CONTENDED_REASONS:
        return Failure(Kind.CONTENDED, text)
    return Failure(Kind.RAISED, text, Rejected(f"DynamoDB refused the transaction: {text}"))
