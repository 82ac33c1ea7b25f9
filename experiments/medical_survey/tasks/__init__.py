"""The survey's applications, a module each: what is learnt, what for, and how that is measured."""
