"""keeperd's own plugins, through the same door as everyone else's: one file a plugin."""
