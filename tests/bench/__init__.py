"""Measurements of the proxy beside other servers, as ratios; no test, pytest collects nothing here.

    python -m tests.bench [--quick] [SCENARIO...]

Everything runs on loopback in processes of its own: the proxy, the stand-in for ECR, and of nginx
and docker-registry (Debian's packages of those names) what is installed. Machines are noisy: those
that are compared take turns, and what counts is the ratio of neighbours, not a figure of its own.
"""
