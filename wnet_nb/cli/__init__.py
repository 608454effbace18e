"""The command line: the package's verbs without a notebook."""
