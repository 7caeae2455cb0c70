"""Side by side with other servers: `make bench` measures all in turn and prints ratios.

How it works, and what each contender does for a request, stands in docs/performance.md.
"""
