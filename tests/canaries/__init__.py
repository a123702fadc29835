"""Proof that no secret leaks: canaries in every secret of the tests, and a watch for them.

Each secret that a test gives to the proxy, or that the stand-in gives to it, is a canary: it has a
mark in it that occurs nowhere else. Whatever the proxy lets out, in all tests, is searched for them
in every encoding: log records with their tracebacks, replies, events, metrics, and what processes
print. What finds one fails the test in which it happened.
"""
