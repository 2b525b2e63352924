"""Run everything, and write the tables into the pages."""

import sys
from pathlib import Path

from tests.lifecycle.matrix.page import main

if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
