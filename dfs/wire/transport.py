"""What can go wrong with a call to a peer, as far as HTTP itself goes."""

from __future__ import annotations


class TransportError(Exception):
    """No answer that can be used."""


class ConnectFailed(TransportError):
    """No connection: nothing was sent."""


class ConnectionLost(TransportError):
    """The connection broke; the peer may have done what it was asked."""


class PeerTimeout(ConnectionLost):
    """The peer stood still for too long, or the deadline passed."""


class BadAnswer(ConnectionLost):
    """The peer's answer breaks the rules of HTTP or of this client."""
