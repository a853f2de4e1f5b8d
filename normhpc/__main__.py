"""``python -m normhpc``."""

from normhpc.cli import main

if __name__ == "__main__":
    main()
