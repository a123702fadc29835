"""A caching reverse proxy in front of Amazon ECR."""

from importlib.metadata import version

__version__ = version("ecr-cache-proxy")
