"""The embedded cluster: API server and storage nodes as processes of one machine."""
