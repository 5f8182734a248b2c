"""The middle of a picture, in the proportions of another one."""

from __future__ import annotations


def middle(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest part in the middle of a picture that has the proportions of a size.

    Args:
        size: (height, width) in pixels of the picture.
        wanted: (height, width) that has the proportions.

    Returns:
        Its top and left, its height and width, in pixels; the whole picture where it has these
        proportions as far as whole pixels can.
    """
    (height, width), (high, wide) = size, wanted
    tall = max(1, min(height, round(width * high / wide)))
    broad = max(1, min(width, round(height * wide / high)))
    return (height - tall) // 2, (width - broad) // 2, tall, broad
