"""`python -m prox24_export`."""

import os
import sys

from prox24_export.process import interrupts


def main() -> None:
    """Runs the command and exits with its code."""
    interrupts.start_catching()  # first of all: what is imported next takes a while
    # Torch, numba and ONNX Runtime share the cores. Their idle threads must sleep, not spin: spinning is a tenth faster
    # on an idle machine and several times slower on a shared one, such as a CI runner.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        from prox24_export import cli  # noqa: PLC0415 - see above
        from prox24_export.process.quiet import silence_libraries  # noqa: PLC0415

        silence_libraries()
        code = cli.main()
        interrupts.ignore_signals()
    except KeyboardInterrupt:
        interrupts.ignore_signals()
        from prox24_export.process.stderr import open_stderr  # noqa: PLC0415

        open_stderr().write("prox24-export: interrupted. Nothing was written.\n")
        code = 130
    from prox24_export.process.stderr import let_go_of_output  # noqa: PLC0415

    let_go_of_output()
    sys.exit(code)


if __name__ == "__main__":
    main()
