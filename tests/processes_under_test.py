"""The seven processes, under their names: shared by the oracle tests."""

from diffax import EDM, VE, VP, Cosine, FromTable, RectifiedFlow, SubVP, tables

PROCESSES = {
    "VP": VP(),
    "SubVP": SubVP(),
    "VE": VE(),
    "EDM": EDM(),
    "RectifiedFlow": RectifiedFlow(),
    "Cosine": Cosine(),
    "FromTable": FromTable(tables.linear(1000)),
}
