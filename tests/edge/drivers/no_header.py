"""The node that looks at no header: a bomb is decoded before its size is known."""

from edge.node import pictures
from edge.node.__main__ import main
from edgedistill import images

if __name__ == "__main__":
    huge = 1 << 40
    images.Image.MAX_IMAGE_PIXELS = None
    pictures.read_header = lambda data: images.read_header(data, max_pixels=huge)
    pictures.decode = lambda data: images.decode(data, max_pixels=huge)
    main()
