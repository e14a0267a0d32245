"""`python -m ummgat`: the command line where the `ummgat` script is not on the path."""

from ummgat.cli import main

if __name__ == "__main__":  # worker processes import this module again
    main()
