"""The commands of `bkm`."""
