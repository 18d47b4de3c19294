"""Background work that tends the stored data; runs inside API servers, one at a time under a lease."""
