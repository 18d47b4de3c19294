"""HTTP plumbing without any dfs vocabulary: strict parsing, bodies, routing, server, client pool."""
