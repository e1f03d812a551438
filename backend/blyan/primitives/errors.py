"""The fault tree: every error says whose fault it is.

`InvalidInput` is the caller's, `PeerFault` the remote's, `IntegrityFault` the bytes', `Unavailable` the moment's and
`Denied` the policy's. Each class has a stable `code` (listed in docs/errors.md) that the API and the CLI pass on; HTTP
statuses and exit codes are chosen where those doors are (`api/errors`, `cli/main`). A mistake of our own is an
`assert`, never one of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeAlias

Detail: TypeAlias = "Mapping[str, str | int | None | list[int] | list[str]]"


class Fault(Exception):
    """What every Blyan error is: a message with both values, structured detail, and what to do next."""

    code: ClassVar[str] = "fault"

    def __init__(self, message: str, *, detail: Detail | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail: Detail = dict(detail or {})
        self.hint = hint


class InvalidInput(Fault):
    """The caller sent something that does not fit; nothing was changed."""

    code = "invalid_input"


class UsageMistake(InvalidInput):
    """A command line that asks for something that does not exist or not together."""

    code = "usage"


class MalformedEncoding(InvalidInput):
    """Bytes that are not the canonical encoding of a value."""

    code = "malformed_encoding"


class MalformedBlock(InvalidInput):
    """Bytes that are not a TensorBlock."""

    code = "malformed_block"


class MalformedMessage(InvalidInput):
    """Bytes that are not a message of tensors."""

    code = "malformed_message"


class MalformedEntry(InvalidInput):
    """Bytes or a value that are not a chain entry."""

    code = "malformed_entry"


class EntryRefused(InvalidInput):
    """A well-formed entry that may not follow the present state of its chain."""

    code = "entry_refused"


class UnsupportedModel(InvalidInput):
    """A checkpoint that this version does not compute correctly, so it does not import it."""

    code = "unsupported_model"


class UnsupportedParameter(InvalidInput):
    """A request parameter that is known but not provided here; ignoring it would change the answer silently."""

    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidInput):
    """Prompt and answer together do not fit the model's context."""

    code = "context_length_exceeded"


class PayloadTooLarge(InvalidInput):
    """A body or file above its limit, refused before it was read."""

    code = "payload_too_large"


class RequestTimeout(InvalidInput):
    """A body that did not come in time."""

    code = "request_timeout"


class IdempotencyConflict(InvalidInput):
    """A key that was used before, for a request that said something else; nothing was changed."""

    code = "idempotency_conflict"


class QuoteExpired(InvalidInput):
    """A quote whose time is over; nothing was computed."""

    code = "quote_expired"


class NotYet(InvalidInput):
    """Something that is coming and cannot be had before, such as a proof of what is not sealed yet."""

    code = "not_yet"


class NotFound(Fault):
    """The named thing does not exist here."""

    code = "not_found"


class NotHeld(NotFound):
    """A peer asked for what this node does not hold."""

    code = "not_held"


class Denied(Fault):
    """Policy forbids it."""

    code = "denied"


class Unauthenticated(Denied):
    """The caller has not shown who they are: no credential, one that does not hold, a sign-in that proves nothing."""

    code = "unauthenticated"


class SchemaTooNew(Denied):
    """A data directory that a newer version wrote: this one would misread it, so it leaves it alone."""

    code = "schema_too_new"


class InsufficientFunds(Denied):
    """The account has less than the answer may cost; nothing was computed, nothing is charged."""

    code = "insufficient_funds"


class PeerFault(Fault):
    """A remote node answered wrongly or not at all."""

    code = "peer_fault"


class IntegrityFault(Fault):
    """Bytes are not what their digest, signature or tree says."""

    code = "integrity_failure"


class BlockCorrupt(IntegrityFault):
    """A stored block does not match its payload id; the detail names file and subtiles."""

    code = "block_corrupt"


class Unavailable(Fault):
    """Not now: the same call may succeed later."""

    code = "unavailable"


class Busy(Unavailable):
    """This node computes for others, and too many wait already."""

    code = "busy"


class ExpertUnavailable(Unavailable):
    """An expert is not here, and no node that holds it answered in time."""

    code = "expert_unavailable"


class StageUnavailable(Unavailable):
    """Layers of a pipeline have no node that answers in time."""

    code = "stage_unavailable"


class QueueFull(Unavailable):
    """This caller's share of a bounded queue is full."""

    code = "queue_full"


class RateLimited(QueueFull):
    """An address, account or key asks more than its quota; the detail says when to come again."""

    code = "rate_limited"


class Overloaded(Unavailable):
    """The queue of generations is full, whoever asks."""

    code = "overloaded"


class StorageFull(Unavailable):
    """No room on the disk, or the limit of the blob store is reached; nothing was stored."""

    code = "storage_full"


class DataDirectoryInUse(Unavailable):
    """Another process holds the data directory's LOCK."""

    code = "data_directory_in_use"


class NotComputable(Fault):
    """The model's arithmetic gave values that are not finite, so there is no answer."""

    code = "not_computable"


class InternalError(Fault):
    """A mistake of ours, reported at a task or request boundary; the log has the traceback."""

    code = "internal_error"


def kind_of(code: str) -> type[Fault]:
    """The class of a stable code, `Fault` itself for one that this version does not know."""
    waiting: list[type[Fault]] = [Fault]
    for kind in waiting:
        if kind.code == code:
            return kind
        waiting.extend(kind.__subclasses__())
    return Fault
