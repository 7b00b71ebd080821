"""The one-command launcher and the command line."""
