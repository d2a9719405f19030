"""`python -m rwkvclip_train`, and the program `rwkvclip-train`."""

from rwkvclip_models.dependencies import run_main


def main() -> None:
    """Run the command line."""
    run_main("rwkvclip_train.cli")


if __name__ == "__main__":
    main()
