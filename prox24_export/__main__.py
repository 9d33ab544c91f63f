"""`python -m prox24_export`."""

import os
import sys

from prox24_export import cli


def main() -> None:
    """Runs the command and exits with its code."""
    # Torch, numba and ONNX Runtime share the cores. Their idle threads must sleep, not spin: spinning is a tenth faster
    # on an idle machine and several times slower on a shared one, such as a CI runner.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
