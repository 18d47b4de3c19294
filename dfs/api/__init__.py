"""The API server: the seed protocol, the files interface, and the state of the cluster, over HTTP."""
