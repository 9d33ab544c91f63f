"""`python -m prox24_export`."""

import sys

from prox24_export import cli


def main() -> None:
    """Entry point of the command."""
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
