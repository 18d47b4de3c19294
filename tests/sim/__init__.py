"""A cluster of a thousand nodes in virtual time: real placement and real repair plans, no bytes.

`make simulate` runs it. Chunks of one placement group share their nodes, so that ten million of them are
65,536 things to look at.
"""
