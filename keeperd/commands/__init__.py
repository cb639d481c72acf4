"""The commands, a module for each group of them. Importing them is light: what is heavy is
imported by the command that needs it."""
