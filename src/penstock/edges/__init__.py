"""The world: one file or small package for each thing touched. They do not know each other."""
