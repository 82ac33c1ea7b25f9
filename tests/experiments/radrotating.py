"""RadRotator's configuration as its tests change it."""

from configs.radrotator import pelvis


def config(**changes):
    """The smoke test's configuration, with a network that compiles quickly."""
    made = pelvis.get_config("smoke")
    made.model.channel_multipliers, made.model.middle_attention = (1,), False
    for dotted, value in changes.items():
        made.update_from_flattened_dict({dotted.replace("__", "."): value})
    return made
