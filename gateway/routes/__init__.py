"""The routes: thin, each file one subject."""
