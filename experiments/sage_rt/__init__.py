"""SAGE-RT: safety-evaluation and alignment data, generated, judged and reported."""
