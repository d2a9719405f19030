"""`python -m rwkvclip_eval`."""

from rwkvclip_eval.cli import main

main()
