"""`python -m rwkvclip_train`."""

from rwkvclip_train.cli import main

main()
