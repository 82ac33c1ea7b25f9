"""The fifty tasks of Meta-World by name, a sentence each, and the sets that are asked for by name."""

from diffax import checks

SENTENCES = {
    "assembly": "Pick up the ring by its handle and put it over the peg.",
    "basketball": "Throw the basketball through the hoop.",
    "bin-picking": "Take the cube out of one bin and put it into the other bin.",
    "box-close": "Grasp the lid and cover the box with it.",
    "button-press-topdown": "Press the button down from above.",
    "button-press-topdown-wall": "Reach over the wall and press the button down from above.",
    "button-press": "Press the button on the side of the box.",
    "button-press-wall": "Go around the wall and press the button on the side of the box.",
    "coffee-button": "Press the button of the coffee machine.",
    "coffee-pull": "Pull the mug away from the coffee machine.",
    "coffee-push": "Push the mug under the coffee machine.",
    "dial-turn": "Turn the dial by half a round.",
    "disassemble": "Take the ring off the peg.",
    "door-close": "Close the door of the safe.",
    "door-lock": "Lock the door by turning its lock clockwise.",
    "door-open": "Open the door of the safe.",
    "door-unlock": "Unlock the door by turning its lock counter-clockwise.",
    "hand-insert": "Put the gripper into the hole.",
    "drawer-close": "Push the drawer shut.",
    "drawer-open": "Pull the drawer open.",
    "faucet-open": "Turn the faucet on, counter-clockwise.",
    "faucet-close": "Turn the faucet off, clockwise.",
    "hammer": "Drive the nail into the wall with the hammer.",
    "handle-press-side": "Press the handle at the side of the box down.",
    "handle-press": "Press the handle at the front of the box down.",
    "handle-pull-side": "Pull the handle at the side of the box up.",
    "handle-pull": "Pull the handle at the front of the box up.",
    "lever-pull": "Pull the lever up by a quarter of a round.",
    "peg-insert-side": "Insert the peg into the side of the block.",
    "pick-place-wall": "Pick up the puck and carry it over the wall to the goal.",
    "pick-out-of-hole": "Take the puck out of its hole and lift it.",
    "reach": "Move the gripper to the goal.",
    "push-back": "Push the block towards the robot, back to the goal.",
    "push": "Push the puck along the table to the goal.",
    "pick-place": "Pick up the puck and carry it to the goal.",
    "plate-slide": "Slide the plate forwards into the cabinet.",
    "plate-slide-side": "Slide the plate sideways into the cabinet.",
    "plate-slide-back": "Slide the plate out of the cabinet, towards the robot.",
    "plate-slide-back-side": "Slide the plate out of the cabinet, sideways.",
    "peg-unplug-side": "Pull the peg out of the side of the block.",
    "soccer": "Kick the football into the goal net.",
    "stick-push": "Grasp the stick and push the thermos with it.",
    "stick-pull": "Grasp the stick and pull the thermos with it.",
    "push-wall": "Push the puck around the wall to the goal.",
    "reach-wall": "Move the gripper over the wall to the goal.",
    "shelf-place": "Pick up the block and place it on the shelf.",
    "sweep-into": "Sweep the puck into the hole.",
    "sweep": "Sweep the puck off the table.",
    "window-open": "Slide the window open.",
    "window-close": "Slide the window shut.",
}
MT10 = (
    "reach",
    "push",
    "pick-place",
    "door-open",
    "drawer-open",
    "drawer-close",
    "button-press-topdown",
    "peg-insert-side",
    "window-open",
    "window-close",
)
SETS = {"mt10": MT10, "mt50": tuple(SENTENCES)}


def task_names(asked: str, field: str = "tasks") -> tuple[str, ...]:
    """Of ``"mt10"``, ``"mt50"``, or names with commas between; ``ValueError`` for others, or one twice."""
    names = SETS.get(asked) or tuple(asked.split(","))
    for name in names:
        checks.require_one_of(field, name, (*SETS, *SENTENCES))
    checks.require(len(set(names)) == len(names), field, asked, "every name once")
    return names
