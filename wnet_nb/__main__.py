"""``python -m wnet_nb``: the command line."""

from wnet_nb.cli.main import run

if __name__ == "__main__":
    run()
