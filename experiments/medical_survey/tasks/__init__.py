"""The survey's applications, a module each: what a network learns, what it is used for, how that is measured."""
