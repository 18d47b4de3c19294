"""Bytes on a node's disk: records, volume files, group commit, index, recovery, compaction.

Knows no HTTP and no metadata. `dfs.store.store.ChunkStore` is the way in; docs/format.md describes
every byte that is written.
"""
