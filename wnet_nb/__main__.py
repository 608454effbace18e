"""``python -m wnet_nb``: the command line."""

import sys

from wnet_nb.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
