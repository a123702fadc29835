"""A caching reverse proxy in front of Amazon ECR."""
