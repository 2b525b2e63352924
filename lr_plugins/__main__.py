"""`python -m lr_plugins`, the same as `lr-plugins`."""

import sys

from lr_plugins.commands import main

if __name__ == "__main__":
    sys.exit(main())
