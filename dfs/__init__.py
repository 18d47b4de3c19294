"""dfs: a replicated file store for small operations teams."""

__version__ = "0.1.0"

WIRE_VERSION = 1
"""Version of the HTTP calls between dfs processes (PROTOCOL.md)."""

DISK_FORMAT = 1
"""Version of everything a node writes to its data directory (docs/format.md)."""

METADATA_FORMAT = 1
"""Version of the metadata rows (ARCHITECTURE.md, "Metadata")."""
