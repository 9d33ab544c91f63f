"""All parts of the GPU benchmark, or some of them, each in a process of its own.

    python -m benchmarks.gpu [PART ...] [--write FOLDER] [--limit SECONDS]

Each part stands alone and takes less than four minutes on one CUDA GPU; `python -m benchmarks.gpu.PART` runs one.
"""

import argparse
import subprocess
import sys

PARTS = ("kernels", "solve", "device", "engines", "tensorrt_engines")  # what matters most first


def main() -> int:
    """Runs the parts in turn; returns the largest of their exit codes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; by default all of them")
    parser.add_argument("--write", metavar="FOLDER", help="write the results there, such as to benchmarks/results")
    parser.add_argument("--limit", metavar="SECONDS", help="time limit of each part")
    chosen = parser.parse_args()
    given = {"--write": chosen.write, "--limit": chosen.limit}
    options = [word for option, value in given.items() if value is not None for word in (option, value)]
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"expected parts of {', '.join(PARTS)}. Got {', '.join(sorted(unknown))}")
    return max(
        subprocess.run([sys.executable, "-m", f"benchmarks.gpu.{part}", *options], check=False).returncode
        for part in chosen.parts or PARTS
    )


if __name__ == "__main__":
    sys.exit(main())
