"""The survey's three frameworks (DDPM, NCSN, score SDEs) as settings of one core."""
