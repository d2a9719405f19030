"""`python -m rwkvclip_eval`, and the program `rwkvclip-eval`."""

from rwkvclip_models.dependencies import run_main


def main() -> None:
    """Run the command line."""
    run_main("rwkvclip_eval.cli.main")


if __name__ == "__main__":
    main()
