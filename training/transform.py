"""The settings that decide how images are decoded."""

from data import colour_of


def sides(side: int | list[int]) -> tuple[int, int]:
    """Return (height, width) of a `data.resolution`: one side, or [height, width]."""
    height, width = (side, side) if isinstance(side, int) else side
    return height, width


def transform(config: dict) -> dict:
    """Return the arguments of `data.load_images` that decide what an image becomes; `config` is nested dicts."""
    data = config["data"]
    found = {"resolution": sides(data["resolution"]), "fit": data["fit"], "background": data["background"]}
    return found | ({"channels": channels(config)} if channels(config) != "rgb" else {})


def channels(config: dict) -> str:
    """Return data.channels; `config` is nested dicts, and earlier revisions had only rgb."""
    return config["data"].get("channels", "rgb")


def background(config: dict) -> tuple[int, int, int]:
    """Return the levels of data.background, which lies under transparent images; `config` is nested dicts. Raises UserError."""
    return colour_of(config["data"]["background"])
