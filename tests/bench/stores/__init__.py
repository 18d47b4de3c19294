"""The stores that are measured, each behind the interface of `server`."""
