"""`python -m proxy` is `ecr-cache-proxy`."""

from proxy.cli import main

if __name__ == "__main__":
    main()
