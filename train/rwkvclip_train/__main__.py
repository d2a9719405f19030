"""`python -m rwkvclip_train`, and the program `rwkvclip-train`."""

import os

from rwkvclip_models.dependencies import run_main


def main() -> None:
    """Run the command line."""
    # Of a peer that ended our message tells, not torch's log. Read when torch is loaded.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    run_main("rwkvclip_train.cli")


if __name__ == "__main__":
    main()
