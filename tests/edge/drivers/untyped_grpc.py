"""The node without the check that a shape is a batch."""

from edge.node import tensors
from edge.node.__main__ import main

if __name__ == "__main__":
    tensors._batch = lambda tensor: tensor.shape[0]
    main()
