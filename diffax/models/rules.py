"""How the networks of this package split over a mesh's tensor axis, by the names of their parameters.

A pair of layers is split as Megatron does (Shoeybi et al. 2019, section 3): the first by its outputs
("column"), the second by its inputs ("row"), so that one sum over devices closes the pair. Experts lie whole
on one device each ("first").
"""

TENSOR_RULES: tuple[tuple[str, str], ...] = (
    (r"/(qkv|mlp_in|conv_in|time_in|embedding)/(kernel|bias)$", "column"),
    (r"/norm_out/(scale|bias)$", "column"),  # between conv_in and conv_out
    (r"/bank/(into|bias|back)$", "first"),
    (r"layers_\d+/(query|key|value|gate|up)/(kernel|bias)$", "column"),  # of a decoder of language
    (r"layers_\d+/(out|down)/kernel$", "row"),
    (r"/(attention/out|mlp_out|conv_out|time_out)/kernel$", "row"),
)
