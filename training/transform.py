"""The settings that decide how images are decoded. Needs only the standard library."""


def sides(side: int | list[int]) -> tuple[int, int]:
    """Return (height, width) of a `data.resolution`: one side, or [height, width]."""
    height, width = (side, side) if isinstance(side, int) else side
    return height, width


def transform(config: dict) -> dict:
    """Return the arguments resolution, fit and background of `data.load_images`; `config` is nested dicts."""
    data = config["data"]
    return {"resolution": sides(data["resolution"]), "fit": data["fit"], "background": data["background"]}
